"use strict";
// The page around the gallery: sections that fold, tables wider than the screen, paper.
(() => {
  // Open or fold a whole section.
  for (const button of document.querySelectorAll("[data-unfold]")) {
    const folds = [...document.getElementById(button.dataset.unfold).closest("section").querySelectorAll("details")];
    const say = () => { button.textContent = folds.every((fold) => fold.open) ? "Close all" : "Open all"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      const open = !folds.every((fold) => fold.open);
      for (const fold of folds) fold.open = open;
    });
    for (const fold of folds) fold.addEventListener("toggle", say);
    say();
  }

  // A table that goes on beyond the edge says so.
  function hint(box) {
    const hidden = box.scrollWidth - box.clientWidth;
    box.toggleAttribute("data-more", hidden > 1 && box.scrollLeft < hidden - 1);
    const swipe = box.nextElementSibling;
    if (swipe?.classList.contains("swipe")) swipe.hidden = hidden <= 1;
  }
  const sizes = new ResizeObserver((entries) => { for (const { target } of entries) hint(target.closest(".scroll")); });
  for (const box of document.querySelectorAll("main .scroll")) {
    const swipe = report.element("p", { class: "swipe", hidden: true }, "More columns: scroll sideways ", report.element("span", { "aria-hidden": "true" }, "→"));
    box.after(swipe);
    box.addEventListener("scroll", () => hint(box), { passive: true });
    sizes.observe(box);
    if (box.firstElementChild) sizes.observe(box.firstElementChild);
  }

  // On paper nothing can be opened. The whole configuration is pages long, and a file of the run.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open], .columns, .long)")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
  });
})();
