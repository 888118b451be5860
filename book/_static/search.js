// Searches the text of the book, which tools/avo_book/search.py writes into search-text.js; chapters come before the API.
(function () {
  "use strict";

  const SHOWN = 3; // hits within one page
  const AROUND = 90; // characters of text on either side of a hit

  const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const count = (text, pattern) => (text.match(pattern) || []).length;

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // A word of the query stands at the start of a word of the text; all words have to occur.
  function weigh(title, text, patterns) {
    const hits = patterns.map((pattern) => 10 * count(title, pattern) + count(text, pattern));
    return hits.every((hit) => hit > 0) ? hits.reduce((a, b) => a + b) : 0;
  }

  function found(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const patterns = words.map((word) => new RegExp(`(?<![\\p{L}\\p{N}])${escaped(word)}`, "giu"));
    if (!words.length) return [];
    const pages = window.avoPages.map((page) => {
      const sections = page.sections
        .map(([anchor, heading, text]) => ({ anchor, heading, text, score: weigh(heading, text, patterns) }))
        .filter((section) => section.score > 0)
        .sort((a, b) => b.score - a.score);
      // A chapter's file has the short name of what it is about.
      const name = page.url.split("/").pop().replace(".html", "");
      const about = words.some((word) => word === name) ? 2e4 : weigh(page.title, "", patterns) > 0 ? 1e4 : 0;
      const score = sections.reduce((sum, section) => sum + section.score, about);
      return { ...page, sections, score: page.url.includes("/reference/") ? score / 1e6 : score, patterns };
    });
    return pages.filter((page) => page.sections.length).sort((a, b) => b.score - a.score);
  }

  function line(text, patterns) {
    const at = Math.max(text.search(patterns[0]), 0);
    const start = at > AROUND ? text.indexOf(" ", at - AROUND) + 1 : 0;
    const end = at + AROUND < text.length ? Math.max(text.lastIndexOf(" ", at + AROUND), at) : text.length;
    const piece = text.slice(start, end);
    const shown = element("p", {}, start ? "… " : "");
    let done = 0;
    for (const match of piece.matchAll(new RegExp(patterns.map((one) => one.source).join("|"), "giu"))) {
      shown.append(piece.slice(done, match.index), element("mark", {}, match[0]));
      done = match.index + match[0].length;
    }
    shown.append(piece.slice(done), end < text.length ? "\u00a0…" : "");
    return shown;
  }

  function entry(page) {
    const shown = page.sections.slice(0, page.url.includes("/api") ? 5 * SHOWN : SHOWN).map((section) => {
      const link = element("a", { href: `${page.url}#${section.anchor}` }, section.heading);
      return element("li", {}, link, line(section.text, page.patterns));
    });
    return element("section", {}, element("h2", {}, element("a", { href: page.url }, page.title)), element("ul", {}, ...shown));
  }

  document.addEventListener("DOMContentLoaded", () => {
    const query = new URLSearchParams(location.search).get("q") || "";
    const results = document.getElementById("search-results");
    document.querySelectorAll("input[name=q]").forEach((input) => (input.value = query));
    if (!query) return;
    const pages = found(query);
    const number = pages.length === 1 ? "1 page has" : `${pages.length || "No"} pages have`;
    results.replaceChildren(element("p", { role: "status" }, `${number} “${query}”.`), ...pages.map(entry));
  });
})();
