"use strict";
// One run: how it goes while it goes, its report as it grows, and the rows that a person checks.
{
  const run = document.body.dataset.run;
  const labelled = document.body.dataset.labelled === "yes";
  const readOnly = document.body.dataset.readOnly === "yes";
  const home = `/runs/${encodeURIComponent(run)}`;
  const { bar, show: showBar } = balanceBar();
  byId("balance-bar").append(bar);
  const stop = byId("stop");
  let line = null;

  // ---- how it goes
  const fields = [...document.querySelectorAll("[data-live]")];
  const show = (now) => {
    const words = { ...inWords(now), utility_unit: now.utility === null ? "" : now.step ? "nats" : "nats an item" };
    for (const field of fields) setText(field, words[field.dataset.live] ?? "");
    fields.find((field) => field.dataset.live === "state").className = `state ${words.state}`;
    byId("progress").hidden = labelled && now.state === "done";
    const share = now.total ? now.done / now.total : 0;
    const meter = byId("meter");
    meter.querySelector(".part").setAttribute("width", (1000 * share).toFixed(1));
    meter.setAttribute("aria-valuenow", Math.round(100 * share));
    showBar(now);
    bar.setAttribute("aria-label", `Balance: ${words.shares}`);
    document.title = now.state === "running" ? `${words.place || "running"}: ${run}` : `${now.verdict ?? now.state}: ${run}`;
  };

  // ---- its report: a part is taken anew when a sweep has ended
  const take = async (part) => {
    try {
      const answer = await fetch(`${home}/part/${part}`);
      if (!answer.ok) return;
      const made = new DOMParser().parseFromString(await answer.text(), "text/html");
      byId(`part-${part}`).replaceChildren(...made.body.childNodes);
    } catch { /* taken with the next sweep */ }
  };
  const grown = (now) => [now.start, now.sweep, Math.floor((now.step ?? 0) / 10)].join();

  const changed = (now) => {
    const before = line;
    line = now;
    show(now);
    if (!before) return;
    // Labels are there for the first time, or other ones: the whole page is another.
    if (now.labelled && (!before.labelled || (before.state === "running" && now.state !== "running"))) location.reload();
    else if (!labelled && grown(before) !== grown(now)) take("figures");
  };
  changed(JSON.parse(byId("line").textContent));

  // ---- its rows
  let checks = null;
  const by = byId("by");
  if (by) {
    by.value = kept.read("name") ?? "";
    by.addEventListener("change", () => kept.write("name", by.value.trim() || null));
  }
  const again = byId("again");
  // Rows that tell most can come first; they are chosen anew each time, without those checked by now.
  const offerAsked = (data, deck) => byId("deck-order")?.addEventListener("change", async (event) => {
    if (event.target.value === "") { deck.showFirst(new Map()); return; }
    try {
      const answer = await fetch(`${home}/ask?budget=${event.target.value}`);
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      const place = new Map(data.rows.map((row, n) => [JSON.stringify(row[ID]), n]));
      deck.showFirst(new Map(found.asked.map(({ id, reason }) => [place.get(JSON.stringify(id)), reason])));
    } catch (error) {
      byId("deck-facts").textContent = error.message;
      event.target.value = "";
    }
  });
  const openRows = async () => {
    const answer = await fetch(`${home}/rows.json`);
    if (!answer.ok) throw new Error((await answer.json()).error);
    const data = await answer.json();
    checks = readOnly ? keptChecks(data, run) : savedChecks(data, run, () => by.value.trim(), () => take("checks"));
    const order = sortedBy(data.rows, (n) => sureness(data.rows[n]));
    checkButtons(data, checks, run);
    const deck = rowDeck(data, order, checks);
    rowTable(data, order, checks, deck.open);
    offerAsked(data, deck);
    if (again) {
      const offer = () => { again.disabled = checks.size === 0; };
      checks.listen(offer);
      offer();
    }
    await checks.read?.();
    if (location.hash === "#check") byId("deck-text").focus();
  };
  if (labelled) openRows().catch((error) => { byId("deck-text").textContent = `The rows cannot be shown: ${error.message}`; });

  // ---- what is started and stopped from here
  const said = byId("again-said");
  const runs = startedRuns((child) => {
    said.textContent = child.said || "The run ended before it began.";
    again.disabled = checks.size === 0;
  });
  const offerStop = () => {
    if (stop) stop.hidden = line.state !== "running" || !runs.of(line.process)?.running;
  };
  again?.addEventListener("click", async () => {
    again.disabled = true;
    said.textContent = "Starting\u2026";
    try {
      runs.await(await post(`${home}/again`, {}));
      said.textContent = "Started: its page opens as soon as the server has answered.";
    } catch (error) {
      said.textContent = error.message;
      again.disabled = checks.size === 0;
    }
  });
  stop?.addEventListener("click", async () => {
    stop.disabled = true;
    try {
      await post(`/children/${runs.of(line.process).id}/stop`, {});
    } catch (error) {
      fields.find((field) => field.dataset.live === "reason").textContent = error.message;
    }
    stop.disabled = false;
  });
  const readChildren = async () => {
    try {
      const answer = await fetch("/children.json");
      if (!answer.ok) return;
      for (const child of (await answer.json()).children) runs.child(child);
      offerStop();
    } catch { /* asked again when the server is heard again */ }
  };

  listen({
    run(now) {
      if (now.name === run) changed(now);
      runs.run(now);
      offerStop();
    },
    child(child) { runs.child(child); offerStop(); },
    gone({ name }) { if (name === run) location.assign("/"); },
    checks(said) { if (said.run === run) checks?.heard?.(said); },
    open() { checks?.read?.(); readChildren(); },
  });
}
