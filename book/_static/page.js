// What is too wide for the page scrolls in itself, by finger and by keyboard.
(function () {
  "use strict";

  function fit() {
    for (const formula of document.querySelectorAll("article mjx-container:not([display])")) {
      // Not for all: a box that scrolls has no baseline, and stands a little higher than the words around it.
      const room = formula.parentElement.closest("p, li, dd, td, th, div, figcaption").clientWidth;
      const width = formula.firstElementChild.getBoundingClientRect().width;
      formula.classList.toggle("avo-wide", width > room);
    }
    for (const box of document.querySelectorAll("article :is(.avo-wide, mjx-container[display], .avo-scroll, pre)")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const table of document.querySelectorAll("article table")) {
      const box = document.createElement("div");
      box.className = "avo-scroll";
      table.replaceWith(box);
      box.append(table);
    }
    const article = document.querySelector("article");
    if (article) new ResizeObserver(fit).observe(article); // its height changes when MathJax is done, or a box unfolds
  });
})();
