"use strict";
// The page of a report: its rows are in the page, and a person's answers in the browser.
{
  const data = JSON.parse(byId("data").textContent);
  const run = document.body.dataset.run;
  const checks = keptChecks(data, run);
  const order = sortedBy(data.rows, (n) => sureness(data.rows[n]));
  checkButtons(data, checks, run);
  rowTable(data, order, checks, rowDeck(data, order, checks).open);
}
