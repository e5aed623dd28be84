"use strict";
// Before anything is painted: the theme that the reader chose last, if any; else the system's.
(() => {
  try {
    const chosen = localStorage.getItem("sgool-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // A browser that keeps nothing for pages from disk.
  }
})();
