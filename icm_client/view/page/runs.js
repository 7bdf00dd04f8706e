"use strict";
// The list of all runs: each has a line that changes as the run goes on.
{
  const body = byId("runs").tBodies[0];
  const filters = { text: byId("search"), state: byId("by-state"), verdict: byId("by-verdict"), order: byId("by-order") };
  const runs = new Map(); // name -> { line, shown, update }
  const chosen = new Set();
  const STATES = ["running", "done", "stopped", "failed"];
  // What is sorted by; the least first, and what is not known last.
  const ORDERS = {
    created: (line) => -Date.parse(line.created),
    name: () => 0,
    state: (line) => STATES.indexOf(line.state),
    utility: (line) => -(line.utility ?? NaN),
    moved: (line) => -(line.moved ?? NaN),
    accuracy: (line) => -(line.accuracy ?? NaN),
    requests: (line) => -(line.cost?.requests ?? NaN),
    left: (line) => line.left_s ?? NaN,
  };

  const cell = (name, ...children) => {
    const made = element("td", { className: name }, ...children);
    made.setAttribute("role", "cell");
    return made;
  };

  // The parts of a line are made once and only their texts change, so that nothing moves.
  const row = (line) => {
    const part = (className, name = "span") => element(name, { className });
    const parts = Object.fromEntries(
      ["about", "state", "verdict", "place", "utility", "moved", "shares", "requests", "tokens", "time", "left"]
        .map((name) => [name, part(name)]));
    const { bar, show: showBar } = balanceBar();
    const box = element("input", { type: "checkbox", checked: chosen.has(line.name) });
    box.setAttribute("aria-label", `Compare ${line.name}`);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(line.name);
      else chosen.delete(line.name);
      showChosen();
    });
    const link = element("a", { href: `/runs/${encodeURIComponent(line.name)}`, textContent: visible(line.name) });
    const shown = element("tr", {},
      cell("c-box", box),
      cell("c-run", link, parts.about),
      cell("c-state", element("span", { className: "badges" }, parts.state, parts.verdict), parts.place),
      cell("c-utility", parts.utility, parts.moved),
      cell("c-balance", bar, parts.shares),
      cell("c-requests", parts.requests, parts.tokens),
      cell("c-time", parts.time, parts.left));
    shown.setAttribute("role", "row");
    const update = (now) => {
      const words = inWords(now);
      const file = fileName(now.data); // a run's name begins with it, as a rule
      setText(parts.about, [now.name.startsWith(file.split(".")[0]) ? "" : file, now.preset, `seed ${now.seed}`, now.model, now.task.includes("{") ? "" : now.task].filter(Boolean).map(visible).join(" \u00b7 "));
      parts.about.title = `${visible(now.data)}: ${parts.about.textContent}`;
      parts.state.className = `state ${words.state}`;
      setText(parts.state, words.state);
      parts.verdict.className = `verdict-word ${(now.verdict ?? "").replaceAll(" ", "-")}`;
      setText(parts.verdict, now.verdict ?? "");
      setText(parts.place, now.state === "running" ? words.place : words.checked);
      parts.place.title = words.reason;
      setText(parts.utility, words.utility);
      setText(parts.moved, words.accuracy ? `${words.accuracy} right` : words.moved === NONE ? "" : `${words.moved} flips`);
      setText(parts.shares, words.shares.split(", ").length === 2 ? words.shares.split(", ")[0] : words.shares);
      parts.shares.title = words.shares;
      showBar(now);
      bar.setAttribute("aria-label", `Balance: ${words.shares}`);
      setText(parts.requests, words.requests);
      setText(parts.tokens, words.tokens === NONE ? "" : `${words.tokens} tokens${words.retries && `, ${words.retries}`}`);
      setText(parts.time, words.time);
      setText(parts.left, now.state === "running" ? words.left : new Date(now.created).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }));
    };
    update(line);
    return { line, shown, update };
  };

  const matches = (line) => {
    const text = filters.text.value.trim().toLowerCase();
    const whole = [line.name, line.data, line.task, line.model, line.preset].join("\n").toLowerCase();
    return (filters.state.value === "" || line.state === filters.state.value) &&
      (filters.verdict.value === "" || line.verdict === filters.verdict.value) &&
      (text === "" || whole.includes(text));
  };

  const select = () => {
    const key = ORDERS[filters.order.value];
    const least = (line) => { const found = key(line); return Number.isNaN(found) ? Infinity : found; };
    const shown = [...runs.values()].filter(({ line }) => matches(line)).sort(({ line: a }, { line: b }) =>
      (least(a) === least(b) ? 0 : least(a) - least(b)) || a.name.localeCompare(b.name));
    const wanted = shown.map((one) => one.shown);
    // A line that is where it should be is left alone: it may have the keyboard's focus.
    if (wanted.length !== body.rows.length || wanted.some((one, n) => body.rows[n] !== one)) {
      const focused = document.activeElement;
      body.replaceChildren(...wanted);
      if (body.contains(focused)) focused.focus({ preventScroll: true });
    }
    setText(byId("found"), shown.length === runs.size ? many(runs.size, "run") : `${shown.length} of ${many(runs.size, "run")}`);
    byId("no-runs").hidden = shown.length > 0;
    byId("no-runs").textContent = runs.size ? "No run is like that. Take a filter back." : "There is no run here yet. It appears as soon as it begins.";
  };

  const showChosen = () => {
    byId("compare").disabled = chosen.size < 2;
    setText(byId("chosen"), chosen.size === 0 ? "Select two runs or more to compare them."
      : chosen.size === 1 ? "1 run selected: select another." : `${chosen.size} runs selected.`);
  };

  const take = (line) => {
    const known = runs.get(line.name);
    if (!known) runs.set(line.name, row(line));
    else { known.line = line; known.update(line); }
  };

  filters.text.addEventListener("input", select);
  for (const name of ["state", "verdict", "order"]) filters[name].addEventListener("change", select);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("compare").addEventListener("click", () => {
    location.assign(`/compare?${new URLSearchParams([...chosen].map((name) => ["run", name]))}`);
  });
  for (const line of JSON.parse(byId("lines").textContent)) take(line);
  select();

  // Many events at once, as when the page begins to listen, sort the list once.
  let waiting = false;
  const selectSoon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; select(); });
  };
  const drop = (name) => { runs.delete(name); chosen.delete(name); };
  listen({
    all({ names }) { // what was removed while nobody told this page
      const there = new Set(names);
      for (const name of runs.keys()) if (!there.has(name)) drop(name);
      showChosen();
      selectSoon();
    },
    run(line) { take(line); selectSoon(); },
    gone({ name }) { drop(name); showChosen(); selectSoon(); },
  });
}
