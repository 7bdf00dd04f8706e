"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [ID, LABEL, CONFIDENCE, MARGIN, GOLD, EXACT, TEXTS, LEFT_OUT] = [0, 1, 2, 3, 4, 5, 6, 7];
  const PAGE = 50;
  const EXCERPT = 400;
  const COLOURS = 6;
  const { words, rows, said } = data;
  const run = document.body.dataset.run;
  const byId = (id) => document.getElementById(id);
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const signed = (nats) => `${nats < 0 ? "\u2212" : "+"}${Math.abs(nats).toFixed(2)}`;
  const many = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  // Control characters cannot be seen, so their codes are shown.
  const visible = (text) =>
    text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g, (c) =>
      `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // Kept in the browser, if it lets a page keep anything.
  const kept = {
    read(name) {
      try { return localStorage.getItem(`icm-client ${name}`); } catch { return null; }
    },
    write(name, text) {
      try {
        if (text === null) localStorage.removeItem(`icm-client ${name}`);
        else localStorage.setItem(`icm-client ${name}`, text);
      } catch { /* the page forgets when it is closed */ }
    },
  };

  // ---- colours
  const THEMES = ["system", "light", "dark"];
  const theme = byId("theme");
  const paint = (name) => {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    theme.textContent = `Colours: ${name}`;
    theme.setAttribute("aria-label", `Colours: ${name === "system" ? "as the system" : name}`);
    theme.value = name;
  };
  paint(THEMES.includes(kept.read("theme")) ? kept.read("theme") : "system");
  theme.addEventListener("click", () => {
    paint(THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]);
    kept.write("theme", theme.value === "system" ? null : theme.value);
  });

  // ---- a person's answers: row number -> label number
  const checks = new Map();
  const place = new Map(rows.map((row, n) => [JSON.stringify(row[ID]), n]));
  try {
    for (const [id, word] of Object.entries(JSON.parse(kept.read(`checks ${run}`) ?? "{}"))) {
      if (place.has(id) && words.includes(word)) checks.set(place.get(id), words.indexOf(word));
    }
  } catch { /* not ours */ }

  const check = (n, label) => {
    if (label === null) checks.delete(n);
    else checks.set(n, label);
    const answers = Object.fromEntries(
      [...checks].map(([row, k]) => [JSON.stringify(rows[row][ID]), words[k]]));
    kept.write(`checks ${run}`, checks.size ? JSON.stringify(answers) : null);
    showChecks();
    showCard();
    const line = byId("rows").querySelector(`tr[data-row="${n}"]`);
    if (line) markLine(line, n);
  };

  const showChecks = () => {
    const corrected = [...checks].filter(([n, k]) => rows[n][LABEL] !== k).length;
    byId("checked-count").textContent = checks.size === 0
      ? "Nothing checked yet."
      : `${many(checks.size, "row")} checked, ${corrected.toLocaleString("en")} of them corrected.`;
    byId("download-checked").disabled = checks.size === 0;
    byId("forget").disabled = checks.size === 0;
  };

  const download = (name, numbers) => {
    const lines = numbers.map((n) =>
      `${JSON.stringify({ id: rows[n][ID], label: words[checks.get(n) ?? rows[n][LABEL]] })}\n`);
    const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };
  byId("download-checked").addEventListener("click", () =>
    download(`${run}.checked.jsonl`, [...checks.keys()].sort((a, b) => a - b)));
  byId("download-all").addEventListener("click", () =>
    download(`${run}.corrected.jsonl`, rows.map((_, n) => n)));
  byId("forget").addEventListener("click", () => {
    if (!confirm(`Forget ${many(checks.size, "check")}?`)) return;
    checks.clear();
    kept.write(`checks ${run}`, null);
    showChecks();
    showCard();
    showPage();
  });

  // ---- the rows to check first
  // Labels that are not to be trusted have no confidence: those near the threshold come first.
  const sure = (n) => rows[n][CONFIDENCE] ?? rows[n][MARGIN];
  const confidence = (row) => row[CONFIDENCE] === null ? "none" : percent(row[CONFIDENCE]);
  const queue = rows.map((_, n) => n).sort((a, b) => sure(a) - sure(b) || a - b);
  let at = 0;
  const deck = byId("deck");
  const choices = words.map((word, k) => {
    const button = element("button", { type: "button" }, element("kbd", { textContent: k < 9 ? k + 1 : "" }), word);
    button.addEventListener("click", () => choose(k));
    return button;
  });
  byId("deck-labels").append(...choices);
  // One height for all rows, so that nothing moves from one to the next.
  const lengths = rows.map((row) => row[TEXTS].join("").length).sort((a, b) => a - b);
  const long = data.fields.length > 1 || lengths[Math.floor(0.95 * (lengths.length - 1))] > 320;
  deck.classList.toggle("short", !long);

  const choose = (k) => check(queue[at], checks.get(queue[at]) === k ? null : k);
  const move = (to) => { at = Math.max(0, Math.min(queue.length - 1, to)); showCard(); byId("deck-text").scrollTop = 0; };
  const nextUnchecked = () => {
    const ahead = queue.findIndex((n, position) => position > at && !checks.has(n));
    const anywhere = queue.findIndex((n) => !checks.has(n));
    move(ahead >= 0 ? ahead : anywhere >= 0 ? anywhere : at);
  };

  let shownCard = -1;
  const showCard = () => {
    const n = queue[at];
    const row = rows[n];
    byId("deck-place").textContent =
      `${(at + 1).toLocaleString("en")} of ${queue.length.toLocaleString("en")}, ${said.first} \u00b7 row ${visible(String(row[ID]))}`;
    const gold = row[GOLD] >= 0 ? ` \u00b7 ${said.gold} ${words[row[GOLD]]}` : "";
    byId("deck-facts").textContent =
      `${said.found}: ${words[row[LABEL]]}, ${row[CONFIDENCE] === null ? "" : `${percent(row[CONFIDENCE])} `}(${signed(row[MARGIN])} nats, ${data.exactness[row[EXACT]]})${gold}`;
    if (shownCard !== n) {
      shownCard = n;
      byId("deck-text").replaceChildren(...fullText(row));
    }
    choices.forEach((button, k) => {
      button.setAttribute("aria-pressed", String(checks.get(n) === k));
      button.querySelector(".was-found")?.remove();
      if (row[LABEL] === k) button.append(element("span", { className: "was-found", textContent: said.found }));
    });
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === queue.length - 1;
  };

  const fullText = (row) => {
    const parts = row[TEXTS].map((text) => element("bdi", { dir: "auto", textContent: visible(text) }));
    const shown = data.fields.length === 1 ? parts : [element("dl", {}, ...parts.flatMap((part, k) => [
      element("dt", { textContent: data.fields[k] }), element("dd", {}, part)]))];
    if (row[LEFT_OUT]) {
      shown.push(element("p", { className: "aside", textContent:
        `${many(row[LEFT_OUT], "more character")} in ${said.file}` }));
    }
    return shown;
  };

  byId("previous").addEventListener("click", () => move(at - 1));
  byId("next").addEventListener("click", () => move(at + 1));
  byId("unchecked").addEventListener("click", nextUnchecked);
  deck.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onButton = event.target instanceof HTMLButtonElement;
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (digit >= 0 && digit < words.length) choose(digit);
    else if (event.key === "ArrowRight") move(at + 1);
    else if (event.key === "ArrowLeft") move(at - 1);
    else if (event.key === "Backspace") check(queue[at], null);
    else if (event.key === "Enter" && !onButton) check(queue[at], rows[queue[at]][LABEL]);
    else return;
    event.preventDefault();
  });

  const openRow = (n) => {
    move(queue.indexOf(n));
    byId("check").scrollIntoView({ block: "start" });
    byId("deck-text").focus({ preventScroll: true });
  };

  // ---- the table
  const body = byId("rows").querySelector("tbody");
  const sought = rows.map((row) => [String(row[ID]), ...row[TEXTS]].join("\n").toLowerCase());
  const filters = { text: byId("search"), label: byId("by-label"), confidence: byId("by-confidence"), check: byId("by-check") };
  words.forEach((word, k) => filters.label.append(element("option", { value: k, textContent: word })));
  const SORTS = {
    order: (n) => n,
    label: (n) => rows[n][LABEL],
    confidence: sure,
    margin: (n) => rows[n][MARGIN],
    gold: (n) => rows[n][GOLD],
    check: (n) => checks.get(n) ?? words.length,
  };
  const KEEPS = {
    "": () => true,
    unchecked: (n) => !checks.has(n),
    checked: (n) => checks.has(n),
    corrected: (n) => checks.has(n) && checks.get(n) !== rows[n][LABEL],
    wrong: (n) => rows[n][GOLD] >= 0 && rows[n][GOLD] !== rows[n][LABEL],
  };
  let sortedBy = "confidence";
  let falling = false;
  let listed = [];
  let page = 0;

  const select = () => {
    const text = filters.text.value.trim().toLowerCase();
    const label = filters.label.value;
    const under = filters.confidence.value === "" ? Infinity : Number(filters.confidence.value);
    const keeps = KEEPS[filters.check.value];
    const key = SORTS[sortedBy];
    listed = queue.filter((n) =>
      (label === "" || rows[n][LABEL] === Number(label)) &&
      rows[n][CONFIDENCE] < under && keeps(n) && (text === "" || sought[n].includes(text)));
    const keys = new Map(listed.map((n) => [n, key(n)]));
    listed.sort((a, b) => (keys.get(a) - keys.get(b)) * (falling ? -1 : 1) || a - b);
    page = 0;
    showPage();
  };

  const showPage = () => {
    const pages = Math.max(1, Math.ceil(listed.length / PAGE));
    page = Math.max(0, Math.min(page, pages - 1));
    const shown = listed.slice(page * PAGE, (page + 1) * PAGE);
    body.replaceChildren(...(shown.length ? shown.map(line) : [noLines()]));
    byId("found").textContent = listed.length === rows.length
      ? many(rows.length, "row")
      : `${listed.length.toLocaleString("en")} of ${many(rows.length, "row")}`;
    byId("page-number").textContent = `page ${(page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
    byId("page-back").disabled = page === 0;
    byId("page-on").disabled = page === pages - 1;
    for (const header of document.querySelectorAll("th[aria-sort]")) {
      const own = header.querySelector("button").dataset.sort === sortedBy;
      header.setAttribute("aria-sort", own ? (falling ? "descending" : "ascending") : "none");
    }
  };

  const noLines = () => {
    const columns = byId("rows").querySelectorAll("thead th").length;
    const cell = element("td", { colSpan: columns, textContent: "No row is like that. Take a filter back." });
    return element("tr", { className: "none" }, cell);
  };

  const labelled = (k) => [element("span", { className: `mark series-${k % COLOURS}` }), words[k]];

  const line = (n) => {
    const row = rows[n];
    const whole = row[TEXTS].join(" \u00b7 ");
    const excerpt = whole.length > EXCERPT ? `${whole.slice(0, EXCERPT)}\u2026` : whole;
    const id = visible(String(row[ID]));
    const open = element("button", { type: "button", className: "open", textContent: id, title: "Read it whole" });
    open.setAttribute("aria-label", `Row ${id}: read it whole`);
    open.addEventListener("click", () => openRow(n));
    const choice = element("select", {}, element("option", { value: "", textContent: "\u2013" }),
      ...words.map((word, k) => element("option", { value: k, textContent: word })));
    choice.setAttribute("aria-label", `Row ${id} checked as`);
    choice.addEventListener("change", () => check(n, choice.value === "" ? null : Number(choice.value)));
    const cells = [
      element("td", { className: "c-id" }, open),
      element("td", { className: "c-text" }, element("bdi", { dir: "auto", className: "excerpt", textContent: visible(excerpt) })),
      element("td", { className: "c-label" }, ...labelled(row[LABEL])),
      element("td", { className: "c-confidence", textContent: confidence(row) }),
      element("td", { className: "c-margin", textContent: signed(row[MARGIN]) }),
    ];
    if (data.gold) {
      const unlike = row[GOLD] >= 0 && row[GOLD] !== row[LABEL];
      cells.push(element("td", { className: `c-gold${unlike ? " unlike" : ""}` },
        row[GOLD] < 0 ? "\u2013" : `${words[row[GOLD]]}${unlike ? " \u2260" : ""}`));
      cells[cells.length - 1].dataset.name = said.gold;
    }
    cells.push(element("td", { className: "c-check" }, choice));
    cells[4].dataset.name = "margin";
    const made = element("tr", {}, ...cells);
    made.dataset.row = n;
    markLine(made, n);
    return made;
  };

  const markLine = (made, n) => {
    made.classList.toggle("checked", checks.has(n));
    made.classList.toggle("corrected", checks.has(n) && checks.get(n) !== rows[n][LABEL]);
    made.querySelector("select").value = checks.has(n) ? String(checks.get(n)) : "";
  };

  for (const button of document.querySelectorAll("button[data-sort]")) {
    button.addEventListener("click", () => {
      falling = sortedBy === button.dataset.sort && !falling;
      sortedBy = button.dataset.sort;
      select();
    });
  }
  filters.text.addEventListener("input", select);
  for (const name of ["label", "confidence", "check"]) filters[name].addEventListener("change", select);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => {
    page += by;
    showPage();
    byId("labels").scrollIntoView({ block: "start" });
  };
  byId("page-back").addEventListener("click", () => turn(-1));
  byId("page-on").addEventListener("click", () => turn(1));

  showChecks();
  showCard();
  select();
})();
