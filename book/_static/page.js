// What is too wide for the page scrolls in itself, by finger and by keyboard. What belongs together stays in one line.
(function () {
  "use strict";

  // A browser may break a line on either side of a formula, even before the full stop.
  function tie(formula) {
    const before = formula.previousSibling?.nodeType === Node.TEXT_NODE && formula.previousSibling;
    const after = formula.nextSibling?.nodeType === Node.TEXT_NODE && formula.nextSibling;
    const opening = before ? before.data.match(/[(\[“±−]*$/)[0].length : 0;
    const closing = after ? after.data.match(/^[-–.,;:!?)\]’”]*/)[0].length : 0;
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

  // A number and its per cent sign, and what a row of a table sets, as in T = 5. A mark may stand between the two.
  function keep(article) {
    const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (text.parentElement.closest("pre, code, script, mjx-container, .math")) continue;
      const kept = text.data.replace(/(^|\d) %/g, "$1\u00a0%");
      const bound = text.parentElement.closest("th") ? kept.replaceAll(" = ", "\u00a0=\u00a0") : kept;
      if (bound !== text.data) text.data = bound;
    }
  }

  // pandas gives the names of the index a row of their own, which is empty but for them.
  function join(table) {
    const [names, columns] = [...(table.tHead?.rows ?? [])].reverse();
    if (!columns || [...columns.cells].some((cell) => cell.colSpan > 1)) return;
    const cells = [...names.cells].map((cell, i) => [cell, columns.cells[i]]);
    if (cells.some(([name, column]) => name.textContent.trim() && column?.textContent.trim())) return;
    for (const [name, column] of cells) if (name.textContent.trim()) column.replaceWith(name);
    names.remove();
  }

  const BOXES = "article :is(.avo-wide, mjx-container[display], .avo-scroll, pre)";

  function more(box) {
    box.classList.toggle("avo-more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  }

  function fit() {
    for (const formula of document.querySelectorAll("article mjx-container:not([display])")) {
      // Not for all: a box that scrolls has no baseline, and stands a little higher than the words around it.
      const stop = formula.closest(".avo-tied") ? 8 : 0;
      const room = formula.parentElement.closest("p, li, dd, td, th, div, figcaption").clientWidth - stop;
      const width = formula.firstElementChild.getBoundingClientRect().width;
      formula.classList.toggle("avo-wide", width > room);
      formula.classList.remove("avo-more");
    }
    for (const box of document.querySelectorAll(BOXES)) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      more(box);
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const article = document.querySelector("article");
    if (article) keep(article);
    document.querySelectorAll("article span.math").forEach(tie);
    document.querySelectorAll("article table.dataframe").forEach(join);
    for (const table of document.querySelectorAll("article table")) {
      const box = document.createElement("div");
      box.className = "avo-scroll";
      table.replaceWith(box);
      box.append(table);
    }
    for (const output of document.querySelectorAll("article .output pre")) {
      output.classList.toggle("avo-line", !output.textContent.trim().includes("\n"));
    }
    article?.addEventListener("scroll", (event) => event.target.matches(BOXES) && more(event.target), true);
    if (article) new ResizeObserver(fit).observe(article); // its height changes when MathJax is done, or a box unfolds
  });
})();
