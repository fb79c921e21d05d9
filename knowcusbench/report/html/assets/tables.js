// Sorting of tables: every part of a table by itself. The first click puts the best on top.
"use strict";

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const rows = table.tHead.rows;
  const ahead = rows.length > 1 ? [...rows[0].cells].filter((cell) => cell.rowSpan > 1).length : 0;
  for (const head of table.querySelectorAll("th.sortable")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head, ahead + head.cellIndex));
  }
}

function sort(table, head, place) {
  const best = head.dataset.better === "low" ? "ascending" : "descending";
  const other = best === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === best ? other : best;
  for (const one of table.querySelectorAll("[aria-sort]")) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("part"));
    const value = (row) => parseFloat(row.cells[place].dataset.value);
    // Rows without a value stay last, whatever the order.
    rows.sort((a, b) => (isNaN(value(a)) - isNaN(value(b))) || sign * (value(a) - value(b)) || 0);
    body.append(...rows);
  }
}
