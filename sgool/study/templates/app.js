"use strict";
// A walk through the items of one form: two steps per item, one per question. Everything shown is set as text, never
// as markup. Votes are kept in this browser, and sent to /votes where the page comes from a server.
(() => {
  const study = window.STUDY;
  const QUESTIONS = ["match", "prefer"];
  const COLUMNS = ["study", "rater", "form", "position", "item", "left", "right", "match", "prefer", "seconds", "answered_at"];
  const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$/;
  const ON_SERVER = location.protocol === "http:" || location.protocol === "https:";
  const RETRY_AFTER = 5000;
  const $ = (id) => document.getElementById(id);

  // --- Keeping votes -----------------------------------------------------------------------------------------------
  const memory = new Map();
  const storage = (() => {
    try {
      const probe = `image-study:${study.study}:probe`;
      localStorage.setItem(probe, "1");
      localStorage.removeItem(probe);
      return localStorage;
    } catch {
      return null; // private windows and some settings
    }
  })();
  const address = (name) => `image-study:${study.study}:${name}`;

  function read(name, fallback) {
    const text = memory.get(name) ?? (storage ? storage.getItem(address(name)) : null);
    try {
      return text === null ? fallback : JSON.parse(text);
    } catch {
      return fallback;
    }
  }

  function write(name, value) {
    const text = JSON.stringify(value);
    try {
      if (!storage) throw new Error("no storage");
      storage.setItem(address(name), text);
    } catch {
      memory.set(name, text); // full or forbidden: at least until the page is closed
      $("storage-note").hidden = false;
    }
  }

  // --- Which form --------------------------------------------------------------------------------------------------
  // FNV-1a with the finaliser of MurmurHash3: the same id gives the same form in every browser.
  function formOf(rater) {
    let hash = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(rater)) hash = Math.imul(hash ^ byte, 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return ((hash ^ (hash >>> 16)) >>> 0) % study.forms.length;
  }

  // --- State -------------------------------------------------------------------------------------------------------
  let rater = null;
  let form = 0;
  let steps = []; // {item, left, right}
  let votes = []; // every vote in the order given; the last one of an item counts
  let step = 0; // 2 * position + question
  let draft = {};
  let shownAt = 0;
  let ready = false;
  let turn = 0; // of show(): images that load late must not unlock a later item
  const skipped = new Set();

  const latest = (item) => votes.findLast((vote) => vote.item === item);
  const isDone = (position) => Boolean(latest(steps[position].item)) || skipped.has(position);
  const firstOpen = () => {
    const position = steps.findIndex((_, index) => !isDone(index));
    return position < 0 ? steps.length : position;
  };
  const answered = () => steps.filter((one) => latest(one.item)).length;

  function enter(name) {
    rater = name;
    form = formOf(rater);
    steps = study.forms[form].map(([index, left]) => {
      const item = study.items[index];
      return { item: item.id, prompt: item.prompt, left: item.images[left], right: item.images[1 - left] };
    });
    votes = read(`votes:${rater}`, []);
    skipped.clear();
    write("current", rater);
    $("meter").setAttribute("aria-valuemax", steps.length);
    go(2 * firstOpen());
    flush();
  }

  function go(target) {
    step = target;
    if (step >= 2 * steps.length) return finish();
    const vote = latest(steps[Math.floor(step / 2)].item);
    draft = vote ? { match: vote.match, prefer: vote.prefer } : {};
    shownAt = performance.now();
    screen("compare");
    show();
  }

  function answer(question, value) {
    if (!ready || step >= 2 * steps.length) return;
    const active = step % 2;
    if (question > active) return; // the second question waits for the first
    draft[QUESTIONS[question]] = value;
    if (question < active) return paint(); // the first one changed while the second is open
    if (active === 0) {
      step += 1;
      paint();
      say(`${label(value)}. Second question: which image would most people prefer?`);
      return;
    }
    save();
    go(step + 1);
  }

  function save() {
    const position = Math.floor(step / 2);
    const shown = steps[position];
    votes.push({
      study: study.study, rater, form, position: position + 1, item: shown.item, left: shown.left, right: shown.right,
      match: draft.match, prefer: draft.prefer,
      seconds: Math.min(999999, Math.round((performance.now() - shownAt) / 100) / 10),
      answered_at: new Date().toISOString(),
    });
    write(`votes:${rater}`, votes);
    flush();
  }

  function back() {
    if (step === 0) return;
    const position = Math.floor(step / 2);
    if (step % 2) {
      step -= 1;
      return paint();
    }
    skipped.delete(position - 1);
    go(2 * (position - 1) + (isDone(position - 1) ? 1 : 0));
  }

  // --- What is seen ------------------------------------------------------------------------------------------------
  function screen(name) {
    for (const id of ["welcome", "compare", "done"]) $(id).hidden = id !== name;
  }

  function show() {
    const position = Math.floor(step / 2);
    const shown = steps[position];
    const own = ++turn;
    ready = false;
    $("broken").hidden = true;
    $("prompt").textContent = shown.prompt;
    $("prompt").classList.toggle("long", shown.prompt.length > 140);
    const loads = ["left", "right"].map((side) => {
      const image = $(side);
      image.src = `images/${shown[side]}.jpg`;
      return image.decode();
    });
    paint();
    Promise.all(loads).then(
      () => {
        if (own !== turn) return;
        ready = true;
        shownAt = performance.now();
        paint();
        preload(position + 1);
      },
      () => {
        if (own === turn) $("broken").hidden = false;
      },
    );
    $("prompt").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    say(`Comparison ${position + 1} of ${steps.length}. ${shown.prompt}`);
  }

  function paint() {
    const position = Math.floor(step / 2);
    $("count").textContent = `${position + 1} of ${steps.length}`;
    $("meter").setAttribute("aria-valuenow", answered());
    $("meter").setAttribute("aria-valuetext", `${answered()} of ${steps.length} answered`);
    $("meter-fill").style.width = `${(100 * answered()) / steps.length}%`;
    $("back").disabled = step === 0;
    $("continue").hidden = position >= firstOpen();
    $("images").classList.toggle("loading", !ready);
    QUESTIONS.forEach((name, question) => {
      const set = $(`question-${name}`);
      set.classList.toggle("active", question === step % 2);
      set.classList.toggle("answered", Boolean(draft[name]));
      for (const button of set.querySelectorAll("button")) {
        button.disabled = !ready || question > step % 2;
        button.setAttribute("aria-pressed", String(draft[name] === button.dataset.answer));
      }
    });
  }

  function preload(position) {
    if (position >= steps.length) return;
    for (const side of ["left", "right"]) new Image().src = `images/${steps[position][side]}.jpg`;
  }

  function finish() {
    turn += 1;
    screen("done");
    const missing = steps.length - answered();
    $("done-text").textContent =
      `You answered ${answered()} of ${steps.length} comparisons` + (missing ? `; ${missing} could not be shown.` : ".");
    $("done-next").textContent = ON_SERVER
      ? "They are sent as you give them; a copy is only needed if the line below says that this failed."
      : "Please save them as a file and send it to whoever invited you: until then they are in this browser alone.";
    $("done-saved").hidden = !ON_SERVER;
    $("done-title").focus();
    flush();
  }

  const label = (value) => ({ left: "Image A", right: "Image B", tie: "No difference" })[value];
  const say = (text) => { $("announce").textContent = text; };

  // --- Sending -----------------------------------------------------------------------------------------------------
  let sending = false;
  let timer = null;

  async function flush() {
    if (!ON_SERVER) return status(`${votes.length ? "Kept in this browser" : ""}`);
    if (sending || rater === null) return;
    sending = true;
    clearTimeout(timer);
    const owner = rater;
    const refused = read(`refused:${owner}`, []);
    let trouble = "";
    try {
      for (let sent = read(`sent:${owner}`, 0); rater === owner && sent < votes.length; ) {
        status(`Sending ${votes.length - sent}…`);
        const response = await fetch("votes", {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(votes[sent]),
          credentials: "omit", redirect: "error",
        });
        if (response.status >= 400 && response.status < 500) {
          refused.push(sent); // sending it again would not help; it stays in the copy
          write(`refused:${owner}`, refused);
        } else if (response.status !== 201) {
          throw new Error(String(response.status));
        }
        sent += 1;
        write(`sent:${owner}`, sent);
      }
    } catch {
      trouble = "Not sent yet; trying again. Your answers are kept in this browser.";
      timer = setTimeout(flush, RETRY_AFTER);
    }
    sending = false;
    if (rater !== owner) return flush();
    if (!trouble && refused.length) {
      trouble = `The server refused ${refused.length}: please save a copy at the end and send it to whoever invited you.`;
    }
    status(trouble || (votes.length ? "All answers saved" : ""), Boolean(trouble));
    if (!trouble && read(`sent:${rater}`, 0) < votes.length) flush();
  }

  function status(text, bad = false) {
    for (const id of ["saved", "done-saved"]) {
      if ($(id).textContent !== text) $(id).textContent = text;
      $(id).classList.toggle("bad", bad);
    }
  }

  function download() {
    const quote = (value) => `"${String(value).replaceAll('"', '""')}"`;
    const lines = [COLUMNS.join(","), ...votes.map((vote) => COLUMNS.map((name) => quote(vote[name])).join(","))];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
    link.download = `votes-${study.study}-${rater}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // --- Hands -------------------------------------------------------------------------------------------------------
  QUESTIONS.forEach((name, question) => {
    for (const button of $(`question-${name}`).querySelectorAll("button")) {
      button.addEventListener("click", () => answer(question, button.dataset.answer));
    }
  });
  $("back").addEventListener("click", back);
  $("continue").addEventListener("click", () => go(2 * firstOpen()));
  $("skip").addEventListener("click", () => {
    skipped.add(Math.floor(step / 2));
    go(2 * Math.floor(step / 2) + 2);
  });
  $("review").addEventListener("click", () => {
    step = 2 * steps.length;
    back();
  });
  $("leave").addEventListener("click", () => {
    welcome();
    $("welcome-title").focus({ preventScroll: true });
  });
  for (const button of document.querySelectorAll(".export")) button.addEventListener("click", download);

  // Another tab of the same rater.
  window.addEventListener("storage", (event) => {
    if (rater !== null && event.key === address(`votes:${rater}`)) votes = read(`votes:${rater}`, []);
  });

  // --- A closer look -----------------------------------------------------------------------------------------------
  let looked = "left";
  function look(side) {
    looked = side;
    $("zoom-image").src = $(side).src;
    $("zoom-image").alt = $("zoom-name").textContent = label(side);
    $("zoom-other").textContent = `Show ${label(side === "left" ? "right" : "left")}`;
    if (!$("zoom").open) $("zoom").showModal();
  }
  for (const side of ["left", "right"]) $(side).closest("button").addEventListener("click", () => look(side));
  $("zoom-other").addEventListener("click", () => look(looked === "left" ? "right" : "left"));
  $("zoom-image").addEventListener("click", () => look(looked === "left" ? "right" : "left"));
  $("zoom-close").addEventListener("click", () => $("zoom").close());

  const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
  document.addEventListener("keydown", (event) => {
    if ($("zoom").open) {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      look(event.key === "ArrowLeft" ? "left" : "right");
      return event.preventDefault();
    }
    if ($("compare").hidden || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.repeat) return;
    if (event.key in KEYS) answer(step % 2, KEYS[event.key]);
    else if (event.key === "ArrowUp" || event.key === "Backspace") back();
    else if (event.key === "PageDown" && !$("continue").hidden) go(2 * firstOpen());
    else return;
    event.preventDefault();
  });

  function welcome() {
    screen("welcome");
    turn += 1;
    $("how-many").textContent = study.forms[0].length;
    $("agree").checked = false; // the next one may be someone else
    // The instructions come first: a focus on the field below them would scroll past them, and open a phone's keyboard.
    window.scrollTo(0, 0);
  }

  $("start").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("rater").value.trim();
    const valid = ID.test(name);
    const agreed = $("agree").checked;
    $("rater-error").textContent = valid ? "" : "Please enter the ID: it starts with a letter or digit and has no spaces.";
    $("rater").setAttribute("aria-invalid", String(!valid));
    $("agree-error").textContent = agreed ? "" : "Please tick the box if you want to take part.";
    if (!valid) $("rater").focus();
    else if (!agreed) $("agree").focus();
    else enter(name);
  });

  $("storage-note").hidden = storage !== null;
  const given = study.rater ?? new URLSearchParams(location.search).get("rater");
  if (given !== null && ID.test(given)) $("rater").value = given;
  $("rater").readOnly = study.rater !== null;
  const current = read("current", null);
  // A link for another rater must not go on as the last one.
  if (current !== null && ID.test(current) && (given === null || given === current)) enter(current);
  else welcome();
})();
