// Shows what a link leads to, when a mouse or the keyboard comes to it; tools/avo_book/tips.py writes the texts.
(function () {
  "use strict";

  const WAIT = 200; // milliseconds, before it comes and before it goes
  const statics = new URL(".", document.currentScript.src);
  const root = new URL("..", statics).href;
  const tip = document.createElement("div");
  let owner = null;
  let timer = null;

  function texts() {
    if (window.avoTips) return Promise.resolve(window.avoTips);
    return new Promise((done) => {
      const script = document.createElement("script");
      script.onload = () => done(window.avoTips);
      script.src = new URL("tips-text.js", statics);
      document.head.append(script);
    });
  }

  function hide() {
    clearTimeout(timer);
    tip.hidden = true;
    owner?.removeAttribute("aria-describedby");
    owner = null;
  }

  async function show(link) {
    const text = (await texts())[decodeURI(link.href.slice(root.length))];
    if (!text || !link.matches(":hover, :focus")) return;
    hide();
    owner = link;
    tip.innerHTML = text;
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    place();
    await window.MathJax?.typesetPromise?.([tip]);
    if (owner === link) place();
  }

  function place() {
    const at = owner.getClientRects()[0];
    const below = at.bottom + tip.offsetHeight < innerHeight || at.top < tip.offsetHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${below ? at.bottom : at.top - tip.offsetHeight}px`;
  }

  function after(action) {
    clearTimeout(timer);
    timer = setTimeout(action, WAIT);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const article = document.querySelector("article");
    if (!article) return;
    Object.assign(tip, { id: "avo-tip", role: "tooltip", hidden: true });
    article.append(tip);
    tip.addEventListener("pointerenter", () => clearTimeout(timer)); // who reads it may come in
    tip.addEventListener("pointerleave", () => after(hide));
    for (const link of article.querySelectorAll("a[href*='#']:not(.headerlink)")) {
      // A finger has no place to hover: its tap follows the link, as ever.
      link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && after(() => show(link)));
      link.addEventListener("pointerleave", () => after(hide));
      link.addEventListener("focus", () => link.matches(":focus-visible") && show(link));
      link.addEventListener("blur", hide);
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("scroll", () => owner && place(), { passive: true });
  });
})();
