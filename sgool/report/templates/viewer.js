"use strict";
// The dialogs: a pair in large, and the keys.
(() => {
  const viewer = document.getElementById("viewer");
  const body = viewer.querySelector(".body");
  const count = viewer.querySelector(".count");
  let place = 0;

  function show(at) {
    const article = report.goTo(at);
    if (!article) return;
    place = report.placeOf(article);
    const large = report.article(Number(article.dataset.row), [place + 1, report.count()]);
    large.removeAttribute("role");
    body.replaceChildren(large);
    body.scrollTop = 0;
    count.textContent = `${place + 1} of ${report.count()}`;
    if (!viewer.open) viewer.showModal();
  }

  report.enlarge = (article) => show(report.placeOf(article));
  report.turn = (by) => show(place + by);
  report.enlarged = () => (viewer.open ? body.querySelector(".pair") : null);
  viewer.addEventListener("close", () => {
    body.replaceChildren();
    report.goTo(place);
  });

  document.addEventListener("click", (event) => {
    const target = event.target;
    if (target.closest?.(".enlarge")) report.enlarge(target.closest(".pair"));
    else if (target.closest?.("button[data-turn]")) report.turn(Number(target.closest("button").dataset.turn));
    else if (target.closest?.("[data-close]") || target.tagName === "DIALOG") target.closest("dialog").close();
    else if (target.closest?.("[data-help]")) report.help();
    else if (target.closest?.("[data-theme-switch]")) report.setTheme(report.isDark() ? "light" : "dark");
  });

  const help = document.getElementById("help");
  report.help = () => (help.open ? help.close() : help.showModal());
})();
