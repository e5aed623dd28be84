"use strict";
// Numbers: texts of scores, gains of one method over another, and which rows are shown in which order.
(() => {
  const { data, FIRST } = report;
  const DRAW = 1e-6; // as in the tables
  const [FILE, FRAMES, OVERLAY, ASPECT, VALUES, INITIAL, ANSWERS, FIRST_ANSWERS, ERROR, CALLS, SECONDS, PHRASES, ANIMATION] = Array(13).keys();
  report.CELL = { FILE, FRAMES, OVERLAY, ASPECT, VALUES, INITIAL, ANSWERS, FIRST_ANSWERS, ERROR, CALLS, SECONDS, PHRASES, ANIMATION };
  report.hasVideos = data.rows.some((row) => row[5].some((cell) => cell?.[ANIMATION]));
  report.hasPhrases = data.rows.some((row) => row[5].some((cell) => cell?.[PHRASES]));
  report.ROW = { ID: 0, PROMPT: 1, CATEGORY: 2, DATASET: 3, SEED: 4, CELLS: 5 };

  const failed = (cell) => Boolean(cell?.[ERROR][0]);
  report.failed = failed;

  function value(row, method, metric) {
    const cell = row[5][method];
    return cell && !failed(cell) ? cell[VALUES][metric] : null;
  }

  // What a method's gain is counted from: another method on the same pair, or its own first image.
  function reference(row, method, base, metric) {
    if (base === FIRST) return row[5][method]?.[INITIAL][metric] ?? null;
    return value(row, base, metric);
  }

  // In the metric's own direction: positive is better, where there is a better.
  report.gain = (row, method, base, metric) => {
    const [after, before] = [value(row, method, metric), reference(row, method, base, metric)];
    if (after === null || before === null || after === undefined || before === undefined) return null;
    return (after - before) * (data.metrics[metric].direction || 1);
  };

  const minus = (text) => text.replace("-", "\u2212");
  const withUnit = (text, unit) => text + unit.replace(" ", "\u202f");
  report.showValue = (number, metric) =>
    number === null ? "\u2013" : withUnit(minus((number * metric.scale).toFixed(metric.digits)), metric.unit);
  report.showGain = (number, metric) => {
    const text = (number * metric.scale * (metric.direction || 1)).toFixed(metric.digits);
    if (Number(text) === 0) return "";
    return withUnit((Number(text) > 0 ? "+" : "") + minus(text), metric.differenceUnit);
  };

  // What stands under an image: the score, its gain over the method's baseline, and whether that is good.
  report.score = (row, method, position) => {
    const metric = data.metrics[position];
    const base = data.methods[method][1];
    const number = value(row, method, position);
    const isBaseline = base === null && data.methods.some(([, other]) => other === method);
    const gain = isBaseline ? null : report.gain(row, method, base ?? FIRST, position);
    const text = gain === null ? "" : report.showGain(gain, metric);
    const judges = metric.direction && !metric.optimised;
    return { text: report.showValue(number ?? null, metric), gain: text, tone: !text || !judges ? "even" : gain > 0 ? "good" : "bad" };
  };

  const prompts = data.rows.map((row) => row[1].toLowerCase());
  const LONG = 8; // characters of a pair's id that are surely meant as one: its hash has all digits

  function outcome(row) {
    const { a, b, metric } = report.state;
    const gain = data.metrics.length ? report.gain(row, a, b, metric) : null;
    return gain === null ? "none" : gain > DRAW ? "win" : gain < -DRAW ? "loss" : "draw";
  }

  function fits(row, position, words) {
    const { category, dataset, show, hidden } = report.state;
    if (category && data.categories[row[2]] !== category) return false;
    if (dataset && data.datasets[row[3]] !== dataset) return false;
    const isId = (word) => word.length >= LONG && row[0].toLowerCase().includes(word);
    if (!words.every((word) => prompts[position].includes(word) || isId(word))) return false;
    if (show === "failed") return row[5].some((cell, method) => failed(cell) && !hidden.includes(method));
    return show === "all" || outcome(row) === show;
  }

  // Positions of the rows to show, in order. A pair without a gain goes last in either direction.
  report.select = () => {
    const { q, a, b, metric, order } = report.state;
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [...data.rows.keys()].filter((position) => fits(data.rows[position], position, words));
    if (order === "run" || !data.metrics.length) return found;
    const gains = new Map(found.map((position) => [position, report.gain(data.rows[position], a, b, metric)]));
    const sign = order === "best" ? -1 : 1;
    return found.sort((one, other) => {
      const [x, y] = [gains.get(one), gains.get(other)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y) || one - other;
    });
  };

  report.tally = (positions) => {
    const counts = { win: 0, draw: 0, loss: 0, none: 0 };
    for (const position of positions) counts[outcome(data.rows[position])] += 1;
    return counts;
  };
})();
