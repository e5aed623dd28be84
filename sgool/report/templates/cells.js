"use strict";
// One pair as elements. Text goes in as text, never as HTML.
(() => {
  const { data, CELL } = report;
  const LONGEST_ALT = 160;
  const FEW_ROWS = 24; // whose pictures may load at once
  const FEW = 3; // methods: beside small pictures there is room for what is written about them

  report.element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === false || value === undefined) continue;
      if (name === "class") made.className = value;
      else if (name === "style") for (const [key, text] of Object.entries(value)) made.style.setProperty(key, text);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  };
  const { element } = report;
  const swatch = (label) => element("i", {
    class: "swatch", "data-turn": String(data.swatches[label][1]), style: { "--c": `var(--c${data.swatches[label][0]})` },
    "aria-hidden": "true",
  });

  function strip(cell, frames, alt) {
    const count = cell[CELL.FRAMES].length + cell[CELL.OVERLAY];
    return element("img", {
      class: "strip", src: `images/${cell[CELL.FILE]}`, alt, loading: data.rows.length > FEW_ROWS ? "lazy" : "eager", decoding: data.rows.length > FEW_ROWS ? "async" : "auto", draggable: "false",
      style: { "--n": count, "--k": frames },
    });
  }

  function frame(row, cell, label) {
    if (!cell) return element("div", { class: "frame empty" }, element("span", {}, "not run"));
    const broken = report.failed(cell);
    if (!cell[CELL.FILE]) return element("div", { class: "frame empty" }, element("span", {}, broken ? "failed" : "no image"));
    const prompt = row[1].length > LONGEST_ALT ? `${row[1].slice(0, LONGEST_ALT)}…` : row[1];
    const last = cell[CELL.FRAMES].length - 1;
    const image = strip(cell, last, `${label}: ${cell[CELL.FRAMES][last]} for “${prompt}”`);
    const style = { "--aspect": cell[CELL.ASPECT] };
    if (!cell[CELL.OVERLAY]) return element("div", { class: "frame", style }, image);
    const over = strip(cell, last + 1, "");
    over.classList.add("over");
    return element(
      "button",
      { class: "frame has-over", type: "button", style, "aria-pressed": "false", title: data.maps[report.labels.indexOf(label)],
        "aria-label": `${label}: show the saliency map (${data.maps[report.labels.indexOf(label)]})` },
      image, over, ...boxes(cell),
    );
  }

  // Where each phrase was found: a box and its words. Phrases that one region answers for share its box.
  function boxes(cell) {
    const found = new Map();
    for (const [phrase, , box] of cell[CELL.PHRASES] ?? []) {
      if (!box) continue;
      const key = box.join();
      found.set(key, [box, [...(found.get(key)?.[1] ?? []), phrase]]);
    }
    return [...found.values()].map(([[left, top, width, height], phrases], at) => element(
      "span", { class: "where", "aria-hidden": "true", "data-corner": at % 4,
        style: { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` } },
      element("span", { dir: "auto" }, phrases.join(" · ")),
    ));
  }

  function found(cell) {
    const made = (cell?.[CELL.PHRASES] ?? []).map(([phrase, distance, box]) => element(
      "span", { class: "chip", title: box ? "distance of the region that is nearest to the phrase" : "no region was found: distance of the whole image" },
      element("bdi", {}, phrase), ` ${distance === null ? "\u2013" : distance.toFixed(2)}${box ? "" : " in the whole image"}`,
    ));
    return element("span", { class: "chips found" }, ...made);
  }

  function animation(row, cell, label) {
    const file = cell?.[CELL.ANIMATION];
    if (!file) return element("span", {});
    return element("a", { class: "animation", href: `images/${file}` },
      element("img", { src: `images/${file}`, alt: `${label}: the video for “${row[1].slice(0, LONGEST_ALT)}”`, loading: "lazy" }), element("span", {}, "play"));
  }

  const chosen = (metric) => (metric === report.state.metric ? " chosen" : "");

  function scores(row, cell, method) {
    return data.metrics.map((metric, position) => {
      const { text, gain, tone } = cell && !report.failed(cell) ? report.score(row, method, position) : { text: "", gain: "" };
      return element(
        "span", { class: `score${metric.optimised ? " quiet" : ""}${chosen(position)}` },
        element("span", { class: "what" }, metric.title, metric.optimised && element("small", {}, " optimised against")), element("b", {}, text), gain && element("em", { class: tone }, gain),
      );
    });
  }

  function chips(cell, base) {
    const made = [...(cell?.[CELL.ANSWERS] ?? "")].map((answer, part) => {
      if (answer === "-") return null;
      const before = base?.[part] ?? "-";
      const change = before === "-" || before === answer ? "same" : answer === "1" ? "gained" : "lost";
      const mark = element("span", { "aria-label": answer === "1" ? "right: " : "wrong: ", role: "img" }, answer === "1" ? "✓" : "✗");
      return element("span", { class: `chip ${change}${answer === "1" ? "" : " wrong"}` }, mark, ` ${data.parts[part]}`);
    });
    return element("span", { class: "chips" }, ...made);
  }

  function answersBefore(row, method) {
    const base = data.methods[method][1];
    if (base !== null) return row[5][base]?.[CELL.ANSWERS];
    const isBaseline = data.methods.some(([, other]) => other === method);
    return isBaseline ? undefined : row[5][method]?.[CELL.FIRST_ANSWERS];
  }

  function cellOf(row, method) {
    const [label] = data.methods[method];
    const cell = row[5][method];
    const error = cell?.[CELL.ERROR][1];
    const note = error && element("span", { class: "error", dir: "auto" }, (report.failed(cell) ? "failed: " : "") + error);
    return element(
      "figure", { class: report.failed(cell) ? "cell broken" : "cell", "data-method": method },
      frame(row, cell, label),
      element("figcaption", {},
        element("span", { class: "name" }, swatch(label), label),
        ...scores(row, cell, method),
        data.parts.length ? chips(report.failed(cell) ? null : cell, answersBefore(row, method)) : null,
        report.hasPhrases ? found(cell) : null,
        report.hasVideos ? animation(row, cell, label) : null,
        note,
      ),
    );
  }

  function slider(row, methods, steps) {
    const input = element("input", {
      type: "range", min: 0, max: steps - 1, step: 1, value: steps - 1, class: "slider",
      "aria-label": "trajectory, from the first image to the final one",
    });
    return element("label", { class: "steer" }, input, element("output", {}));
  }

  // Moves all pictures of a row to the same share of their trajectories.
  report.steer = (article, step) => {
    const input = article.querySelector(".slider");
    if (!input) return;
    const steps = Number(input.max);
    input.value = Math.max(0, Math.min(steps, step));
    const share = steps ? Number(input.value) / steps : 1;
    const row = data.rows[Number(article.dataset.row)];
    const names = new Set();
    for (const figure of article.querySelectorAll(".cell")) {
      const image = figure.querySelector(".strip:not(.over)");
      const frames = row[5][Number(figure.dataset.method)]?.[CELL.FRAMES] ?? [];
      if (!image || frames.length < 2) continue;
      const frameAt = Math.round(share * (frames.length - 1));
      image.style.setProperty("--k", frameAt);
      image.alt = image.alt.replace(/: (first image|final image|update \d+) for “/, `: ${frames[frameAt]} for “`);
      names.add(frames[frameAt]);
    }
    const text = names.size === 1 ? [...names][0] : `${Math.round(100 * share)} % of the way`;
    input.setAttribute("aria-valuetext", text);
    input.nextElementSibling.textContent = text;
    article.classList.toggle("moved", Number(input.value) !== steps);
  };
  report.step = (article, by) => {
    const input = article?.querySelector(".slider");
    if (input) report.steer(article, Number(input.value) + by);
  };

  // The row's article; `place` is [position, of how many] in the list that is shown.
  report.article = (position, place) => {
    const row = data.rows[position];
    const methods = [...data.methods.keys()].filter((method) => !report.state.hidden.includes(method));
    const steps = Math.max(0, ...methods.map((method) => row[5][method]?.[CELL.FRAMES].length ?? 0));
    const category = data.categories[row[2]];
    const head = element(
      "header", { class: "head" },
      element("div", { class: "prompt" },
        element("h3", { dir: "auto" }, row[1] || "(empty prompt)"),
        element("p", { class: "tags" },
          category && element("span", { class: "tag", dir: "auto" }, category),
          element("span", { class: "seed", title: row[0] }, `seed ${row[4]}`),
          element("button", { type: "button", class: "plain enlarge" }, "Enlarge"))),
      element("div", { class: "labels" },
        element("span", { class: "name" }, steps > 1 ? slider(row, methods, steps) : null),
        ...data.metrics.map((metric, at) => element("span", { class: (metric.optimised ? "quiet" : "") + chosen(at) }, metric.title,
          metric.optimised && element("small", {}, "optimised against"))),
        data.parts.length ? element("span", { class: "scene" }, "Scene") : null,
        report.hasPhrases ? element("span", { class: "scene" }, "Phrases", element("small", {}, "distance, lower is nearer")) : null,
        report.hasVideos ? element("span", { class: "scene" }, "Video", element("small", {}, "above it all its frames")) : null),
    );
    const article = element(
      "article", { class: methods.length <= FEW ? "pair few" : "pair", role: "listitem", tabindex: "-1", "data-row": position, "aria-posinset": place[0],
        "aria-setsize": place[1], "aria-label": row[1].slice(0, LONGEST_ALT) || "empty prompt",
        style: { "--columns": methods.length, "--lines": 1 + data.metrics.length + (data.parts.length ? 1 : 0) + (report.hasPhrases ? 1 : 0) + (report.hasVideos ? 1 : 0) } },
      head, ...methods.map((method) => cellOf(row, method)),
    );
    report.steer(article, report.state.view === "first" ? 0 : steps - 1);
    return article;
  };
})();
