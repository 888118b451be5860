// Lets html-manager's widgets work in a static page without a network.
// A plain script, loaded after require.js and before embed-amd.js.
(function () {
  "use strict";

  // The theme's Font Awesome replaces every new <i> by an <svg>. The Play button keeps a reference to its <i>, and the
  // TypeError it throws once that is gone kills every later link. Icons already on the page are still converted.
  window.FontAwesomeConfig = Object.assign({}, window.FontAwesomeConfig, { observeMutations: false });

  // html-manager looks for its own files beside the page unless told where the scripts are.
  requirejs.config({ baseUrl: new URL(".", document.currentScript.src).href });

  // html-manager still calls MathJax 2: MathJax.Hub.Queue(["Typeset", MathJax.Hub, element]).
  window.addEventListener("load", function () {
    var mathjax = window.MathJax;
    if (!mathjax || !mathjax.typesetPromise || mathjax.Hub) {
      return;
    }
    mathjax.Hub = {
      Queue: function () {
        Array.prototype.forEach.call(arguments, function (call) {
          mathjax.typesetPromise([call[2]]).catch(function () {}); // a label without a formula is no error
        });
      },
    };
  });
})();
