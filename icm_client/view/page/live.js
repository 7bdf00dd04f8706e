"use strict";
// What happens in the runs, as the server tells it, and a run's figures in words.

const NONE = "\u2013";
const count = (n) => (n ?? null) === null ? NONE : n.toLocaleString("en");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const SVG = "http://www.w3.org/2000/svg";

const duration = (seconds) => {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
};

const fileName = (path) => path.replaceAll("\\", "/").split("/").pop();

// A run's line in words; what is not known is a dash.
const inWords = (line) => {
  const { cost, counts } = line;
  const items = Object.values(counts).reduce((sum, n) => sum + n, 0);
  const place = line.sweep ? `start ${line.start}, sweep ${line.sweep}` : line.step ? `step ${count(line.step)}` : "";
  return {
    state: line.state === "running" && line.waiting ? "waiting" : line.state,
    place: place || (line.state === "running" ? "not begun" : ""),
    reads: line.total ? `${count(line.done)} of ${count(line.total)} reads of the sweep under way` : "",
    utility: line.utility === null ? NONE : signed(line.utility),
    moved: line.moved === null ? NONE : percent(line.moved),
    accuracy: line.accuracy === null ? "" : percent(line.accuracy),
    shares: items ? line.labels.map((word) => `${word} ${Math.round((100 * (counts[word] ?? 0)) / items)}%`).join(", ") : NONE,
    requests: cost ? count(cost.requests) : NONE,
    retries: cost?.retries ? `${count(cost.retries)} sent again` : "",
    tokens: cost ? COMPACT.format(cost.computed_tokens + cost.cached_tokens) : NONE,
    cached: cost ? `${COMPACT.format(cost.cached_tokens)} from cache` : "",
    time: cost ? duration(cost.seconds) : NONE,
    left: line.state !== "running" ? "" : line.left_s === null ? NONE : `${duration(line.left_s)} left`,
    reason: line.waiting ?? line.reason ?? "",
    checked: `${many(line.rows, "row")}${line.checked ? `, ${count(line.checked)} checked` : ""}`,
  };
};

// Text is set where it is another one, so that nothing is laid out or read aloud for nothing.
const setText = (shown, text) => { if (shown.textContent !== text) shown.textContent = text; };

// A bar of the labels' shares; `show(line)` draws it anew.
const balanceBar = () => {
  const bar = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", class: "share-bar" })) {
    bar.setAttribute(name, value);
  }
  const show = ({ labels, counts }) => {
    while (bar.childElementCount < labels.length) bar.append(document.createElementNS(SVG, "rect"));
    const items = labels.reduce((sum, word) => sum + (counts[word] ?? 0), 0);
    let from = 0;
    labels.forEach((word, k) => {
      const width = items ? (1000 * (counts[word] ?? 0)) / items : 0;
      const part = bar.children[k];
      for (const [name, value] of Object.entries({ x: from.toFixed(1), y: 0, width: width.toFixed(1), height: 10, class: `bar series-${k % 6}` })) {
        part.setAttribute(name, value);
      }
      from += width;
    });
  };
  return { bar, show };
};

// Calls `heard[kind](data)` for what the server tells, and `heard.open()` once it is heard anew.
// A page that nobody sees does not listen: browsers keep few connections to one server.
function listen(heard) {
  const shown = byId("connection");
  let events = null;
  const say = (words) => { shown.textContent = words; shown.dataset.live = words === "Live"; };
  const open = () => {
    events = new EventSource("/events");
    events.addEventListener("open", () => { say("Live"); heard.open?.(); });
    events.addEventListener("error", () => {
      say("Not connected");
      if (events.readyState === EventSource.CLOSED) { events = null; setTimeout(again, 2000); }
    });
    for (const kind of ["all", "run", "gone", "checks", "child"]) {
      events.addEventListener(kind, ({ data }) => heard[kind]?.(JSON.parse(data)));
    }
  };
  const again = () => {
    if (document.hidden) { events?.close(); events = null; }
    else if (!events) open();
  };
  document.addEventListener("visibilitychange", again);
  addEventListener("pagehide", () => { events?.close(); events = null; });
  addEventListener("pageshow", again);
  again();
}

// Posts JSON; returns what the server answers, or throws its words.
async function post(path, value, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value), signal });
  } catch {
    throw Object.assign(new Error("The server does not answer."), { status: 0 });
  }
  const text = await answer.text();
  let said;
  try { said = JSON.parse(text); } catch { said = { error: text }; }
  if (!answer.ok) throw Object.assign(new Error(said.error ?? answer.statusText), { status: answer.status });
  return said;
}
