// A slider and a Play button above the frames of each `.avo-frames`; without this script the first frame shows.
(function () {
  "use strict";

  const PAUSE = 700; // milliseconds from frame to frame

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function control(box) {
    const name = box.getAttribute("aria-label");
    const frames = [...box.querySelectorAll(".avo-frame")];
    const last = frames.length - 1;
    // Some browsers bring a form's old values back on reload, but not the frame that they meant.
    const range = element("input", { type: "range", min: 0, max: last, value: 0, autocomplete: "off" });
    const play = element("button", { type: "button" });
    let timer = null;

    function show(number) {
      frames.forEach((frame, i) => (frame.hidden = i !== number));
      range.value = number;
      range.setAttribute("aria-valuetext", frames[number].querySelector("figcaption").textContent);
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "▶";
      play.setAttribute("aria-label", `Play: ${name}`);
    }

    function step() {
      const next = Number(range.value) + 1;
      show(Math.min(next, last));
      if (next >= last) stop();
    }

    function start() {
      play.textContent = "❚❚";
      play.setAttribute("aria-label", `Pause: ${name}`);
      timer = setInterval(step, PAUSE);
      if (Number(range.value) === last) show(0);
    }

    play.addEventListener("click", () => (timer === null ? start() : stop()));
    range.addEventListener("input", () => {
      stop();
      show(Number(range.value));
    });
    stop();
    show(0);
    box.prepend(element("div", { class: "avo-controls" }, play, element("label", {}, element("span", {}, name), range)));
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".avo-frames").forEach(control));
})();
