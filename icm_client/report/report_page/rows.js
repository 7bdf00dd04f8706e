"use strict";
// All rows in a table that sorts, filters and searches. Only the rows in sight are in the page:
// each has the same height and its place, so that 100,000 scroll like fifty.

// `order`: row numbers, in which they are shown first; `open(n)` shows a row whole.
function rowTable(data, order, checks, open) {
  const EXCERPT = 400;
  const COLOURS = 6;
  const AHEAD = 12; // rows that are made before they come into sight
  const TALLEST = 15_000_000; // pixels that every browser can scroll through; more rows scroll faster
  const { words, rows, said } = data;
  const box = byId("rows-box");
  const table = byId("rows");
  const body = table.tBodies[0];
  const filters = { text: byId("search"), label: byId("by-label"), confidence: byId("by-confidence"), check: byId("by-check") };
  filters.label.append(...words.map((word, k) => element("option", { value: k, textContent: word })));
  const goldOf = (n) => (checks.showsGold(n) ? rows[n][GOLD] : -1);
  const SORTS = {
    order: (n) => n,
    label: (n) => rows[n][LABEL],
    confidence: (n) => sureness(rows[n]),
    margin: (n) => rows[n][MARGIN],
    gold: (n) => goldOf(n),
    check: (n) => checks.get(n) ?? words.length,
  };
  const KEEPS = {
    "": () => true,
    unchecked: (n) => !checks.has(n),
    checked: (n) => checks.has(n),
    corrected: (n) => checks.has(n) && checks.get(n) !== rows[n][LABEL],
    wrong: (n) => goldOf(n) >= 0 && goldOf(n) !== rows[n][LABEL],
  };
  let column = "confidence";
  let falling = false;
  let sorted = order;
  let listed = order; // the row numbers that the filters keep, in the order of the sort

  // ---- which rows
  const sought = []; // by row number, made when it is first looked for
  const holds = (n, text) =>
    (sought[n] ??= [String(rows[n][ID]), ...rows[n][TEXTS]].join("\n").toLowerCase()).includes(text);

  const select = () => {
    const text = filters.text.value.trim().toLowerCase();
    const label = filters.label.value === "" ? null : Number(filters.label.value);
    const under = filters.confidence.value === "" ? Infinity : Number(filters.confidence.value);
    const keeps = KEEPS[filters.check.value];
    listed = sorted.filter((n) =>
      (label === null || rows[n][LABEL] === label) &&
      rows[n][CONFIDENCE] < under && keeps(n) && (text === "" || holds(n, text)));
    byId("found").textContent = listed.length === rows.length
      ? many(rows.length, "row")
      : `${listed.length.toLocaleString("en")} of ${many(rows.length, "row")}`;
    table.setAttribute("aria-rowcount", listed.length + 1);
    box.scrollTop = 0;
    lines.clear();
    body.replaceChildren(...(listed.length ? [] : [noLines()]));
    measure();
  };

  const sort = () => {
    sorted = sortedBy(rows, SORTS[column], falling);
    for (const header of table.querySelectorAll("th[aria-sort]")) {
      const own = header.querySelector("button").dataset.sort === column;
      header.setAttribute("aria-sort", own ? (falling ? "descending" : "ascending") : "none");
    }
    select();
  };

  // ---- the rows in sight
  const lines = new Map(); // place in `listed` -> its line
  let height = 1; // of a line, pixels
  let seen = 0; // of the box under its header, pixels
  let tall = 0; // of what is scrolled through, pixels

  const measure = () => {
    const probe = body.firstElementChild ?? body.appendChild(line(listed[0]));
    height = listed.length ? probe.offsetHeight : 0;
    if (lines.size === 0 && listed.length) probe.remove();
    seen = box.clientHeight - table.tHead.offsetHeight;
    tall = Math.min(TALLEST, listed.length * height);
    body.style.height = listed.length ? `${tall}px` : "";
    show();
  };

  // Pixels of lines that pass in one of the scroller: more than one where they are too many for it.
  const speed = () => (tall > seen ? (listed.length * height - seen) / (tall - seen) : 1);

  const show = () => {
    if (!listed.length) return;
    const top = box.scrollTop * speed();
    const first = Math.max(0, Math.floor(top / height) - AHEAD);
    const end = Math.min(listed.length, Math.ceil((top + seen) / height) + AHEAD);
    let after = null;
    for (const [place, made] of lines) {
      if (place >= first && place < end) continue;
      // A line in which a person is stays, so that the keyboard does not lose its place.
      if (!made.contains(document.activeElement)) { made.remove(); lines.delete(place); }
      else if (place >= end) after = made;
    }
    for (let place = end - 1; place >= first; place -= 1) {
      let made = lines.get(place);
      if (!made) {
        made = line(listed[place]);
        made.setAttribute("aria-rowindex", place + 2);
        lines.set(place, made);
        body.insertBefore(made, after);
      }
      after = made;
    }
    for (const [place, made] of lines) {
      made.style.transform = `translateY(${place * height - top + box.scrollTop}px)`;
    }
  };

  const noLines = () => element("tr", { className: "none" },
    element("td", { textContent: "No row is like that. Take a filter back." }));

  const cell = (name, ...children) => {
    const made = element("td", { className: `c-${name}` }, ...children);
    made.setAttribute("role", "cell");
    return made;
  };

  const line = (n) => {
    const row = rows[n];
    const whole = row[TEXTS].join(" \u00b7 ");
    const excerpt = whole.length > EXCERPT ? `${whole.slice(0, EXCERPT)}\u2026` : whole;
    const id = visible(String(row[ID]));
    const button = element("button", { type: "button", className: "open", textContent: id, title: "Read it whole" });
    button.setAttribute("aria-label", `Row ${id}: read it whole`);
    button.addEventListener("click", () => open(n));
    const choice = element("select", {}, element("option", { value: "", textContent: "\u2013" }),
      ...words.map((word, k) => element("option", { value: k, textContent: word })));
    choice.setAttribute("aria-label", `Row ${id} checked as`);
    choice.addEventListener("change", () => checks.set(n, choice.value === "" ? null : Number(choice.value)));
    const margin = cell("margin", signed(row[MARGIN]));
    margin.dataset.name = "margin";
    const made = element("tr", {},
      cell("id", button),
      cell("text", element("bdi", { dir: "auto", className: "excerpt", textContent: visible(excerpt) })),
      cell("label", element("span", { className: `mark series-${row[LABEL] % COLOURS}` }), words[row[LABEL]]),
      cell("confidence", row[CONFIDENCE] === null ? "none" : percent(row[CONFIDENCE])),
      margin);
    if (data.gold) {
      const gold = cell("gold");
      gold.dataset.name = said.gold;
      made.append(gold);
    }
    made.append(cell("check", choice));
    made.setAttribute("role", "row");
    made.dataset.row = n;
    mark(made, n);
    return made;
  };

  const mark = (made, n) => {
    made.classList.toggle("checked", checks.has(n));
    made.classList.toggle("corrected", checks.has(n) && checks.get(n) !== rows[n][LABEL]);
    const gold = made.querySelector(".c-gold");
    if (gold) {
      const unlike = KEEPS.wrong(n);
      gold.classList.toggle("unlike", unlike);
      gold.textContent = goldOf(n) < 0 ? "\u2013" : `${words[goldOf(n)]}${unlike ? " \u2260" : ""}`;
    }
    made.querySelector("select").value = checks.has(n) ? String(checks.get(n)) : "";
  };

  // ---- what a person does
  for (const button of table.querySelectorAll("button[data-sort]")) {
    button.addEventListener("click", () => {
      falling = column === button.dataset.sort && !falling;
      column = button.dataset.sort;
      sort();
    });
  }
  filters.text.addEventListener("input", select);
  for (const name of ["label", "confidence", "check"]) filters[name].addEventListener("change", select);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("scroll", show, { passive: true });
  body.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by || !event.target.matches(".open")) return;
    const place = listed.indexOf(Number(event.target.closest("tr").dataset.row)) + by;
    event.preventDefault();
    if (place < 0 || place >= listed.length) return;
    if (!lines.has(place)) {
      box.scrollTop = (place * height) / speed();
      show();
    }
    lines.get(place).querySelector(".open").focus();
  });
  checks.listen((n) => {
    const made = body.querySelector(`tr[data-row="${n}"]`);
    if (made) mark(made, n);
  });

  box.style.setProperty("--rows", rows.length);
  sort();
  new ResizeObserver(measure).observe(box);
}
