"use strict";
// The page's data, what the reader has chosen, and the address that holds it. `report` is what the files share.
const report = {};

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  report.data = data;
  report.FIRST = data.methods.length; // stands for "its own first image" among the methods

  const labels = data.methods.map(([label]) => label);
  report.labels = labels;
  const compared = data.methods.findLastIndex(([, base]) => base !== null);
  const named = ["sgool", "doodl"].map((name) => labels.findIndex((label) => label.split("/").pop() === name));
  // One of these that is compared with another method; else any such; else one that has its own first images alone.
  const method = named.find((index) => index >= 0 && data.methods[index][1] !== null)
    ?? (compared >= 0 ? compared : named.find((index) => index >= 0) ?? 0);
  const base = data.methods[method]?.[1] ?? report.FIRST;
  const judge = data.metrics.findIndex((metric) => metric.direction && !metric.optimised);

  report.defaults = {
    q: "", category: "", dataset: "", a: method, b: base, metric: Math.max(judge, 0), show: "all", order: "run",
    view: "final", hidden: [],
  };
  report.state = { ...report.defaults };

  const nameOf = (index) => (index === report.FIRST ? "first-image" : labels[index]);
  const indexOf = (name) => (name === "first-image" ? report.FIRST : labels.indexOf(name));
  const SHOWN = ["all", "win", "draw", "loss", "failed"];
  const ORDERS = ["run", "best", "worst"];
  const VIEWS = ["final", "first", "saliency"];

  // The address holds what differs from the page as it opens, by name: a link outlives another order of methods.
  function toHash() {
    const { state, defaults } = report;
    const parts = new URLSearchParams();
    for (const key of ["q", "category", "dataset", "show", "order", "view"])
      if (state[key] !== defaults[key]) parts.set(key, state[key]);
    for (const key of ["a", "b"]) if (state[key] !== defaults[key]) parts.set(key, nameOf(state[key]));
    if (state.metric !== defaults.metric) parts.set("metric", data.metrics[state.metric].key);
    for (const index of state.hidden) parts.append("hide", labels[index]);
    const text = parts.toString();
    return text ? `#${text}` : "";
  }

  // Whatever stands in an address that someone sent: what makes no sense is left out.
  function fromHash(hash) {
    const parts = new URLSearchParams(hash.replace(/^#/, ""));
    const state = { ...report.defaults, hidden: [] };
    const pick = (key, allowed) => {
      const value = parts.get(key);
      if (value !== null && allowed.includes(value)) state[key] = value;
    };
    state.q = parts.get("q") ?? "";
    pick("category", data.categories);
    pick("dataset", data.datasets);
    pick("show", SHOWN);
    pick("order", ORDERS);
    pick("view", VIEWS);
    const a = indexOf(parts.get("a") ?? "");
    if (a >= 0 && a < report.FIRST) state.a = a;
    const b = indexOf(parts.get("b") ?? "");
    if (b >= 0) state.b = b;
    const metric = data.metrics.findIndex(({ key }) => key === parts.get("metric"));
    if (metric >= 0) state.metric = metric;
    state.hidden = parts.getAll("hide").map(indexOf).filter((index) => index >= 0 && index < report.FIRST);
    if (state.hidden.length === labels.length) state.hidden = [];
    return state;
  }

  report.readAddress = () => {
    // An anchor of the page itself (#pairs) is no state.
    if (location.hash.includes("=") || !location.hash) report.state = fromHash(location.hash);
  };
  report.writeAddress = () => {
    const hash = toHash();
    // An anchor stays: taking it away would stop the browser on its way there.
    if (!hash && location.hash && !location.hash.includes("=")) return;
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
  };

  // A choice that belongs to the reader and not to what is shown, so it is kept here and not in the address.
  function keep(name, value) {
    document.documentElement.dataset[name] = value;
    try {
      localStorage.setItem(`sgool-${name}`, value);
    } catch {
      // It holds until the page is closed.
    }
  }
  report.setTheme = (theme) => keep("theme", theme);
  report.SIZES = ["small", "medium", "large"];
  report.size = () => document.documentElement.dataset.size;
  report.keepSize = (size) => keep("size", size);
  report.isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
})();
