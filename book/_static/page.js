// What is too wide for the page scrolls in itself, by finger and by keyboard. What belongs together stays in one line.
(function () {
  "use strict";

  // A browser may break a line on either side of a formula, even before the full stop, or before what it is equal to.
  const UNFINISHED = /([=<>≈∼≤≥]|\\(approx|sim|leq?|geq?))\s*(\\\))?$/; // as TeX, or as MathJax has made it

  function tie(formula) {
    const before = formula.previousSibling?.nodeType === Node.TEXT_NODE && formula.previousSibling;
    const after = formula.nextSibling?.nodeType === Node.TEXT_NODE && formula.nextSibling;
    const opening = before ? before.data.match(/[(\[“±−]*$/)[0].length : 0;
    const follows = UNFINISHED.test(formula.textContent) ? /^\s*\S*/ : /^[-–.,;:!?)\]’”]*/;
    const closing = after ? after.data.match(follows)[0].length : 0;
    if (!opening && !closing) return;
    const tied = document.createElement("span");
    tied.className = "avo-tied";
    formula.replaceWith(tied);
    tied.append(opening ? before.splitText(before.length - opening) : "", formula);
    if (closing) {
      after.splitText(closing);
      tied.append(after);
    }
  }

  // A number with its per cent sign or its ±, and what a row of a table sets, as in T = 5. A mark may part them.
  function keep(article) {
    const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (text.parentElement.closest("pre, code, script, mjx-container, .math")) continue;
      const kept = text.data.replace(/(^|\d)\s([%±])/g, "$1\u00a0$2").replace(/±\s(?=\d|$)/g, "±\u00a0");
      const bound = text.parentElement.closest("th") ? kept.replaceAll(" = ", "\u00a0=\u00a0") : kept;
      if (bound !== text.data) text.data = bound;
    }
  }

  // A table of text whose columns do not fit becomes a list, in which each cell says what it is.
  function label(table) {
    const names = [...(table.tHead?.rows[0]?.cells ?? [])];
    if (!names.length) return;
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, i) => {
        const name = document.createElement("span");
        name.className = "avo-label";
        name.append(...(names[i].querySelector("p") ?? names[i]).cloneNode(true).childNodes);
        name.querySelectorAll("[id]").forEach((part) => part.removeAttribute("id"));
        cell.classList.toggle("avo-empty", !cell.textContent.trim());
        (cell.querySelector("p") ?? cell).prepend(name);
      });
    }
    table.classList.add("avo-text");
  }

  function list(table) {
    table.classList.remove("avo-list");
    table.classList.toggle("avo-list", table.offsetWidth > table.parentElement.clientWidth);
  }

  // In a table of numbers that scrolls, the names of the rows stay: all, or as many from the right as leave room.
  function hold(table) {
    const room = table.parentElement.clientWidth;
    table.classList.remove("avo-held");
    if (table.offsetWidth <= room) return;
    const keys = [...table.tBodies[0].rows[0].cells].filter((cell) => cell.tagName === "TH").map((cell) => cell.offsetWidth);
    const sum = (widths) => widths.reduce((total, width) => total + width, 0);
    const first = keys.findIndex((_, i) => sum(keys.slice(i)) <= room * 0.6);
    if (first < 0) return;
    table.classList.add("avo-held");
    table.style.setProperty("--avo-held", `${sum(keys.slice(first))}px`);
    for (const row of table.rows) {
      // Below a name that spans rows there are fewer of them, and above the numbers there are more cells of their kind.
      const names = [...row.cells].filter((cell) => cell.tagName === "TH").slice(0, keys.length);
      names.forEach((name, i) => {
        const key = i + keys.length - names.length;
        name.classList.add("avo-key");
        name.style.left = `${sum(keys.slice(0, key)) - sum(keys.slice(0, first))}px`;
      });
    }
  }

  // A picture of several panels is drawn for a desk. On a phone it scrolls, where shrinking would make its letters, drawn
  // 14 pixels high, too small to read. What nearly fits is shrunk all the same.
  function enlarge(picture) {
    const readable = 0.625 * picture.naturalWidth;
    const fits = readable < 1.15 * picture.closest(".avo-scroll").clientWidth;
    picture.style.minWidth = fits ? "" : `${readable}px`;
  }

  function box(...contents) {
    const made = document.createElement("div");
    made.className = "avo-scroll";
    contents[0].before(made);
    made.append(...contents);
  }

  // What a button is called has to be what stands on it, or else to say what it opens.
  function call(article) {
    article.querySelectorAll("details.hide > summary").forEach((summary) => summary.removeAttribute("aria-label"));
    let exercise = "";
    for (const part of article.querySelectorAll(".exercise > .admonition-title, .solution .toggle-button")) {
      if (part.tagName === "BUTTON") part.setAttribute("aria-label", `Solution to ${exercise}`);
      else exercise = (part.querySelector(".caption-number") ?? part).textContent.trim();
    }
  }

  const BOXES = "article :is(.avo-wide, mjx-container[display], .avo-scroll, pre)";

  function more(scroller) {
    const rest = scroller.scrollWidth - scroller.clientWidth - scroller.scrollLeft;
    scroller.classList.toggle("avo-more", rest > 12);
  }

  function fit() {
    document.querySelectorAll("article table.avo-text").forEach(list);
    document.querySelectorAll("article table.dataframe").forEach(hold);
    const inline = document.querySelectorAll("article mjx-container:not([display])");
    inline.forEach((formula) => formula.classList.remove("avo-wide", "avo-more")); // on a phone it is set smaller then
    for (const formula of inline) {
      // Not for all: a box that scrolls has no baseline, and stands a little higher than the words around it.
      const stop = formula.closest(".avo-tied") ? 8 : 0;
      const room = formula.parentElement.closest("p, li, dd, td, th, div, figcaption").clientWidth - stop;
      const width = formula.firstElementChild.getBoundingClientRect().width;
      formula.classList.toggle("avo-wide", width > room);
    }
    document.querySelectorAll("article .avo-scroll img").forEach(enlarge);
    for (const scroller of document.querySelectorAll(BOXES)) {
      if (scroller.scrollWidth > scroller.clientWidth) scroller.tabIndex = 0;
      more(scroller);
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const article = document.querySelector("article");
    if (article) keep(article);
    if (article) call(article);
    document.querySelectorAll("article span.math").forEach(tie);
    for (const long of document.querySelectorAll("article :is(.sig .pre, .indextable a)")) {
      long.innerHTML = long.innerHTML.replaceAll("_", "_<wbr>");
    }
    document.querySelectorAll("article table:not(.dataframe, .indextable)").forEach(label);
    document.querySelectorAll("article table").forEach((table) => box(table));
    document.querySelectorAll("article .cell_output > figure > img").forEach((picture) => box(picture));
    document.querySelectorAll("article .avo-frames").forEach((frames) => box(...frames.querySelectorAll(".avo-frame")));
    for (const output of document.querySelectorAll("article .output pre")) {
      output.classList.toggle("avo-line", !output.textContent.trim().includes("\n"));
    }
    article?.addEventListener("scroll", (event) => event.target.matches(BOXES) && more(event.target), true);
    if (article) new ResizeObserver(fit).observe(article); // its height changes when MathJax is done, or a box unfolds
  });
})();
