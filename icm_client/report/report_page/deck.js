"use strict";
// The rows one by one, the least certain first, with a button and a key for each label.

// Labels that are not to be trusted have no confidence: those near the threshold come first.
const sureness = (row) => row[CONFIDENCE] ?? row[MARGIN];

// Row numbers sorted by `key(n)`; those with the same key stay in the order of the data.
const sortedBy = (rows, key, falling = false) => {
  const keys = Float64Array.from(rows, (_, n) => key(n));
  const sign = falling ? -1 : 1;
  return Uint32Array.from(rows, (_, n) => n).sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
};

// `sure`: all row numbers, the least certain first. Returns how to open a row, and how to show some
// rows before all others: `reasons` is a map from their numbers to why, in words.
function rowDeck({ rows, words, said, fields, exactness }, sure, checks) {
  let order = sure;
  let reasons = new Map();
  let at = 0;
  let shown = -1;
  const deck = byId("deck");
  const choices = words.map((word, k) => {
    const button = element("button", { type: "button" }, element("kbd", { textContent: k < 9 ? k + 1 : "" }), word);
    button.addEventListener("click", () => choose(k));
    return button;
  });
  byId("deck-labels").replaceChildren(...choices);
  // One height for all rows, so that nothing moves from one to the next.
  const lengths = rows.map((row) => row[TEXTS].reduce((sum, text) => sum + text.length, 0)).sort((a, b) => a - b);
  const long = fields.length > 1 || lengths[Math.floor(0.95 * (lengths.length - 1))] > 320;
  deck.classList.toggle("short", !long);

  const advance = byId("advance"); // where the page asks whether to
  const answer = (k) => {
    checks.set(order[at], k);
    if (k !== null && advance?.checked) nextUnchecked();
  };
  const choose = (k) => answer(checks.get(order[at]) === k ? null : k);
  const move = (to) => {
    at = Math.max(0, Math.min(order.length - 1, to));
    show();
    byId("deck-text").scrollTop = 0;
  };
  const nextUnchecked = () => {
    const ahead = order.findIndex((n, position) => position > at && !checks.has(n));
    const anywhere = order.findIndex((n) => !checks.has(n));
    move(ahead >= 0 ? ahead : anywhere >= 0 ? anywhere : at);
  };

  const show = () => {
    const n = order[at];
    const row = rows[n];
    byId("deck-place").textContent =
      `${(at + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}, ${reasons.get(n) ?? said.first} \u00b7 row ${visible(String(row[ID]))}`;
    const gold = row[GOLD] >= 0 && checks.showsGold(n) ? ` \u00b7 ${said.gold} ${words[row[GOLD]]}` : "";
    byId("deck-facts").textContent =
      `${said.found}: ${words[row[LABEL]]}, ${row[CONFIDENCE] === null ? "" : `${percent(row[CONFIDENCE])} `}(${signed(row[MARGIN])} nats, ${exactness[row[EXACT]]})${gold}`;
    if (shown !== n) {
      shown = n;
      byId("deck-text").replaceChildren(...fullText(row));
    }
    choices.forEach((button, k) => {
      button.setAttribute("aria-pressed", String(checks.get(n) === k));
      button.querySelector(".was-found")?.remove();
      if (row[LABEL] === k) button.append(element("span", { className: "was-found", textContent: said.found }));
    });
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === order.length - 1;
  };

  const fullText = (row) => {
    const parts = row[TEXTS].map((text) => element("bdi", { dir: "auto", textContent: visible(text) }));
    const whole = fields.length === 1 ? parts : [element("dl", {}, ...parts.flatMap((part, k) => [
      element("dt", { textContent: fields[k] }), element("dd", {}, part)]))];
    if (row[LEFT_OUT]) {
      whole.push(element("p", { className: "aside", textContent:
        `${many(row[LEFT_OUT], "more character")} in ${said.file}` }));
    }
    return whole;
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
    else if (event.key === "Backspace") answer(null);
    else if (event.key === "Enter" && !onButton) answer(rows[order[at]][LABEL]);
    else return;
    event.preventDefault();
  });
  checks.listen((n) => { if (n === order[at]) show(); });
  show();

  return {
    open(n) {
      move(order.indexOf(n));
      byId("check").scrollIntoView({ block: "start" });
      byId("deck-text").focus({ preventScroll: true });
    },
    showFirst(chosen) {
      reasons = chosen;
      order = Uint32Array.from([...reasons.keys(), ...sure.filter((n) => !reasons.has(n))]);
      move(0);
    },
  };
}
