"use strict";
// The list of pairs: filled where it is on the screen, empty elsewhere, so that thousands of rows stay smooth.
(() => {
  const { data } = report;
  const BLOCK = 6; // rows that come and go together
  const STAYING = 24; // so few rows all stay
  const gallery = document.getElementById("gallery");
  const controls = document.getElementById("controls");
  const field = (name) => controls.elements.namedItem(name);
  let selected = [];
  let shown = ""; // the state that the list was made for
  let height = 0; // mean height of a row that was on the screen

  function fill(block) {
    if (block.firstChild) return;
    const start = Number(block.dataset.start);
    for (const [offset, position] of selected.slice(start, start + BLOCK).entries())
      block.append(report.article(position, [start + offset + 1, selected.length]));
    block.style.minHeight = "";
  }

  function clear(block) {
    if (!block.firstChild || selected.length <= STAYING || block.contains(document.activeElement)) return;
    const tall = block.getBoundingClientRect().height;
    height = tall / block.childElementCount;
    block.style.minHeight = `${tall}px`;
    block.replaceChildren();
  }

  const watcher = new IntersectionObserver(
    (entries) => { for (const { target, isIntersecting } of entries) (isIntersecting ? fill : clear)(target); },
    { rootMargin: "900px 0px" },
  );

  function list() {
    watcher.disconnect();
    gallery.replaceChildren();
    const blocks = [];
    for (let start = 0; start < selected.length; start += BLOCK) {
      const count = Math.min(BLOCK, selected.length - start);
      const block = report.element("div", { class: "block", role: "presentation", "data-start": start });
      block.style.minHeight = `${count * (height || 420)}px`;
      blocks.push(block);
    }
    gallery.append(...blocks);
    for (const block of selected.length <= STAYING ? blocks : blocks.slice(0, 1)) fill(block);
    if (!height && blocks.length) {
      height = blocks[0].getBoundingClientRect().height / blocks[0].childElementCount;
      for (const block of blocks) if (!block.firstChild) block.style.minHeight = `${BLOCK * height}px`;
    }
    for (const block of blocks) watcher.observe(block);
  }

  function describe() {
    const all = data.rows.length;
    const { a, b, metric } = report.state;
    const counts = report.tally(selected);
    const many = selected.length === all ? `${all} ${all === 1 ? "pair" : "pairs"}` : `${selected.length} of ${all} pairs`;
    const names = data.metrics[metric]?.direction ? ["better", "equal", "worse"] : ["higher", "equal", "lower"];
    const whom = b === report.FIRST ? "its first image" : report.labels[b];
    const tally = data.metrics.length && a !== b
      ? ` · ${report.labels[a]} against ${whom} on ${data.metrics[metric].title}: ${counts.win} ${names[0]}, ${counts.draw} ${names[1]}, ${counts.loss} ${names[2]}.`
      : "";
    document.getElementById("shown").textContent = many + tally;
    document.getElementById("nothing").hidden = selected.length > 0;
  }

  // Everything after the state has changed, however it did.
  report.show = () => {
    const { state } = report;
    for (const name of ["q", "category", "dataset", "a", "b", "metric", "show", "order", "view"])
      if (field(name)) field(name).value = state[name];
    for (const box of controls.querySelectorAll("[name=column]")) box.checked = !state.hidden.includes(Number(box.value));
    const content = JSON.stringify({ ...state, view: "" });
    if (content !== shown) {
      selected = report.select();
      list();
      describe();
    }
    shown = content;
    look(state.view);
    report.writeAddress();
  };

  function look(view) {
    if (document.body.dataset.view === view) return;
    document.body.dataset.view = view;
    for (const article of document.querySelectorAll(".pair")) report.steer(article, view === "first" ? 0 : Infinity);
  }

  // The rows are made anew, and the one that the reader looked at stays on the screen.
  report.setSize = (size) => {
    const first = [...gallery.querySelectorAll(".pair")].find((article) => article.getBoundingClientRect().bottom > 60);
    const place = first ? report.placeOf(first) : 0;
    const reading = first && first.getBoundingClientRect().top < 0;
    report.keepSize(size);
    field("size").value = size;
    height = 0;
    list();
    if (reading) gallery.children[Math.floor(place / BLOCK)]?.scrollIntoView({ block: "start" });
  };

  report.change = (changes) => {
    Object.assign(report.state, changes);
    report.show();
  };

  function read() {
    const next = {};
    for (const name of ["q", "category", "dataset", "show", "order", "view"]) if (field(name)) next[name] = field(name).value;
    for (const name of ["a", "b", "metric"]) if (field(name)) next[name] = Number(field(name).value);
    const boxes = [...controls.querySelectorAll("[name=column]")];
    const hidden = boxes.filter((box) => !box.checked).map((box) => Number(box.value));
    next.hidden = hidden.length === boxes.length ? report.state.hidden : hidden; // one column always stays
    report.change(next);
  }

  // The article of a row in the list, brought onto the screen if it is not there.
  report.goTo = (place) => {
    if (!selected.length) return null;
    const at = Math.max(0, Math.min(selected.length - 1, place));
    const block = gallery.children[Math.floor(at / BLOCK)];
    fill(block);
    const article = block.children[at % BLOCK];
    article.focus({ preventScroll: true });
    article.scrollIntoView({ block: "start" });
    return article;
  };
  report.placeOf = (article) => Number(article.getAttribute("aria-posinset")) - 1;
  report.current = () => document.activeElement?.closest?.(".pair") ?? null;
  report.count = () => selected.length;

  controls.hidden = false;
  field("size").value = report.size();
  controls.addEventListener("submit", (event) => event.preventDefault());
  let waiting = 0;
  controls.addEventListener("input", (event) => {
    if (event.target.name === "size") return report.setSize(event.target.value);
    clearTimeout(waiting);
    waiting = setTimeout(read, event.target.name === "q" ? 120 : 0);
  });
  document.getElementById("reset").addEventListener("click", () => report.change({ ...report.defaults, hidden: [] }));
  document.addEventListener("input", (event) => {
    if (event.target.classList.contains("slider")) report.steer(event.target.closest(".pair"), Number(event.target.value));
  });
  document.addEventListener("click", (event) => {
    const frame = event.target.closest?.(".has-over");
    if (frame) frame.setAttribute("aria-pressed", String(frame.getAttribute("aria-pressed") !== "true"));
  });
  // On paper there is no scrolling: all rows, but no more of them than anyone would print.
  const MOST_PRINTED = 200;
  addEventListener("beforeprint", () => {
    watcher.disconnect();
    [...gallery.children].forEach((block, at) => {
      if (at * BLOCK < MOST_PRINTED) fill(block);
      else block.hidden = true;
    });
    for (const image of gallery.querySelectorAll("img")) image.loading = "eager";
  });
  addEventListener("afterprint", () => {
    for (const block of gallery.children) {
      block.hidden = false;
      watcher.observe(block);
    }
  });
  addEventListener("hashchange", () => {
    report.readAddress();
    report.show();
  });
  // Rows made before the last one on the screen have other heights after a change of width.
  addEventListener("resize", () => { height = 0; });

  report.readAddress();
  report.show();
})();
