"use strict";
// Search, category and order of the gallery. The page is complete without it.
(() => {
  const gallery = document.getElementById("gallery");
  const pairs = [...gallery.children];
  const search = document.getElementById("search");
  const category = document.getElementById("category");
  const order = document.getElementById("order");
  const shown = document.getElementById("shown");
  const texts = new Map(pairs.map((pair) => [pair, pair.querySelector(".prompt").textContent.toLowerCase()]));

  // A pair without a gain (failed, or nothing to compare with) goes last in either direction.
  const gain = (pair, column) => Number.parseFloat(pair.dataset.gains.trim().split(/\s+/)[column]);

  function sorted() {
    if (!order.value) return pairs;
    const [column, direction] = order.value.split(" ").map(Number);
    return [...pairs].sort((one, other) => {
      const [a, b] = [gain(one, column), gain(other, column)];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return direction * (a - b);
    });
  }

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const pair of pairs) {
      const fits = words.every((word) => texts.get(pair).includes(word));
      pair.hidden = !fits || Boolean(category?.value && pair.dataset.category !== category.value);
      count += !pair.hidden;
    }
    shown.textContent = count === pairs.length ? `${count} pairs` : `${count} of ${pairs.length} pairs`;
  }

  const controls = document.getElementById("controls");
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", update);
  order.addEventListener("change", () => gallery.append(...sorted()));
  update();
})();
