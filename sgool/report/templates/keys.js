"use strict";
// The keyboard; every key is told in the dialog that `?` opens, from this very table.
(() => {
  const next = (by) => {
    if (report.enlarged()) return report.turn(by);
    const article = report.current();
    return report.goTo(article ? report.placeOf(article) + by : 0);
  };
  const here = () => report.enlarged() ?? report.current();
  const order = (name) => report.change({ order: report.state.order === name ? "run" : name });

  const resize = (by) => {
    const size = report.SIZES[report.SIZES.indexOf(report.size()) + by];
    if (size) report.setSize(size);
  };

  const KEYS = [
    [["j", "ArrowDown"], "next pair", () => next(1)],
    [["k", "ArrowUp"], "previous pair", () => next(-1)],
    [["Home"], "first pair", () => report.goTo(0)],
    [["End"], "last pair", () => report.goTo(report.count() - 1)],
    [["ArrowLeft"], "back along the trajectory of this pair", () => report.step(here(), -1)],
    [["ArrowRight"], "on along the trajectory", () => report.step(here(), 1)],
    [["+", "="], "larger pictures", () => resize(1)],
    [["-"], "smaller pictures", () => resize(-1)],
    [["s"], "saliency maps, in all pictures", () => {
      report.change({ view: report.state.view === "saliency" ? "final" : "saliency" });
    }],
    [["Enter"], "this pair in large", () => report.current() && report.enlarge(report.current())],
    [["/"], "search", () => document.getElementById("search").focus()],
    [["w"], "worst pairs first", () => order("worst")],
    [["b"], "best pairs first", () => order("best")],
    [["f"], "failed pairs alone", () => report.change({ show: report.state.show === "failed" ? "all" : "failed" })],
    [["r"], "all pairs, as run", () => document.getElementById("reset").click()],
    [["t"], "dark or light", () => report.setTheme(report.isDark() ? "light" : "dark")],
    [["?"], "these keys", () => report.help()],
  ];
  const SYMBOLS = { ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→" };
  const list = document.getElementById("keys");
  for (const [names, text] of KEYS)
    list.append(
      report.element("dt", {}, ...names.map((name) => report.element("kbd", {}, SYMBOLS[name] ?? name))),
      report.element("dd", {}, text),
    );
  list.append(report.element("dt", {}, report.element("kbd", {}, "Esc")), report.element("dd", {}, "close, or leave the search"));

  const WRITES = "input:not([type=range], [type=checkbox]), select, textarea";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    if (target.matches?.(WRITES)) {
      if (key === "Escape") target.blur();
      return;
    }
    if (document.getElementById("help").open && key !== "?") return;
    // Controls keep their own keys, and so does scrolling until a pair is chosen.
    if (target.matches?.("[type=range]") && key.startsWith("Arrow")) return;
    if (target.matches?.("button, a, summary, [type=checkbox]") && key === "Enter") return;
    if (/^(Arrow|Home|End)/.test(key) && !here()) return;
    const found = KEYS.find(([names]) => names.includes(key));
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
})();
