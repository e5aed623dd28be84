"use strict";
// Before anything is painted: the theme and the size of pictures that the reader chose last; else the system's, small.
(() => {
  document.documentElement.dataset.size = "small";
  try {
    const chosen = localStorage.getItem("sgool-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
    const size = localStorage.getItem("sgool-size");
    if (["medium", "large"].includes(size)) document.documentElement.dataset.size = size;
  } catch {
    // A browser that keeps nothing for pages from disk.
  }
})();
