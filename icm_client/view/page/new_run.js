"use strict";
// The form for a new run: what it would ask is shown while it is filled in.
{
  const NAMES = ["data", "task", "template", "labels", "gold", "endpoint", "model", "seed", "limit"];
  const fields = Object.fromEntries(NAMES.map((name) => [name, byId(name)]));
  const [start, forecast] = [byId("start"), byId("forecast")];
  const said = byId("form-said");

  const form = () => {
    const own = fields.task.value === "own";
    const found = {};
    for (const [name, field] of Object.entries(fields)) {
      const value = name === "template" ? field.value : field.value.trim();
      if (value === "" || (name === "task" && own) || (["template", "labels"].includes(name) && !own)) continue;
      found[name] = field.type === "number" ? Number(value) : value;
    }
    return found;
  };
  const ready = () => {
    const { data, template, labels } = form();
    return Boolean(data) && (fields.task.value !== "own" || Boolean(template && labels));
  };

  // ---- what the model reads
  const label = (text) => element("li", {}, element("code", { textContent: visible(text).replaceAll(" ", "\u2423").replaceAll("\n", "\u23ce") }));
  const show = (found) => {
    byId("preview").replaceChildren(
      element("pre", { textContent: visible(found.first_prompt) }),
      element("p", { className: "aside", textContent: "and then one of" }),
      element("ul", { className: "label-texts" }, ...found.labels.map(label)));
    const lengths = found.lengths;
    setText(byId("preview-said"), `${many(found.rows, "row")}. ${lengths
      ? `A prompt has ${count(lengths.least)} to ${count(lengths.most)} ${lengths.unit}.`
      : found.lengths_not_checked ? `Lengths were not checked: ${found.lengths_not_checked}` : ""}`);
    byId("preview-said").dataset.state = "";
    byId("preview-notes").replaceChildren(...[...found.warnings, ...found.notices].map((words) => element("li", { textContent: words })));
  };
  let asked = 0;
  let soon;
  let inquiry = new AbortController();
  const look = () => {
    clearTimeout(soon);
    inquiry.abort();
    const own = ++asked;
    start.disabled = forecast.disabled = true;
    if (!ready()) return;
    soon = setTimeout(async () => {
      setText(byId("preview-said"), "Rendering\u2026");
      byId("preview").setAttribute("aria-busy", "true");
      inquiry = new AbortController();
      try {
        const found = await post("/new/preview", form(), inquiry.signal);
        if (own !== asked) return; // the form is another one by now
        show(found);
        start.disabled = forecast.disabled = false;
      } catch (error) {
        if (own !== asked) return;
        setText(byId("preview-said"), error.message);
        byId("preview-said").dataset.state = "trouble";
        byId("preview-notes").replaceChildren();
      }
      byId("preview").removeAttribute("aria-busy");
    }, 500);
  };

  // ---- what it would take, and beginning
  const range = ([least, most], word) => `${COMPACT.format(least)} to ${COMPACT.format(most)} ${word}`;
  forecast.addEventListener("click", async () => {
    forecast.disabled = true;
    said.textContent = "Measuring\u2026";
    try {
      const found = await post("/new/preview", { ...form(), forecast: true });
      said.textContent = [
        `A run over ${many(found.rows, "row")}:`,
        [range(found.requests, "requests"), range(found.computed_tokens, "tokens computed"),
          found.minutes && `${found.minutes[0].toFixed(1)} to ${found.minutes[1].toFixed(1)} minutes`].filter(Boolean).join(", "),
      ].join(" ");
    } catch (error) {
      said.textContent = error.message;
    }
    forecast.disabled = false;
  });

  const runs = startedRuns((child) => {
    said.textContent = child.said || "The run ended before it began.";
    start.disabled = false;
  });
  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (start.disabled) return;
    start.disabled = true;
    said.textContent = "Starting\u2026";
    try {
      runs.await(await post("/new", form()));
      said.textContent = "Started: its page opens as soon as the server has answered.";
    } catch (error) {
      said.textContent = error.message;
      start.disabled = false;
    }
  });

  const chosen = () => { byId("own").hidden = fields.task.value !== "own"; };
  fields.task.addEventListener("change", chosen);
  for (const field of Object.values(fields)) field.addEventListener(field.localName === "select" ? "change" : "input", look);
  chosen();
  look();
  listen(runs);
}
