// Sorting of tables: every part of a table by itself. The first click puts the best on top. And a shade where a table
// goes on beyond the right edge.
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

const shade = ({ target }) =>
  target.classList.toggle("more", target.scrollLeft + target.clientWidth < target.scrollWidth - 1);
const widths = new ResizeObserver((entries) => entries.forEach(shade));
for (const region of document.querySelectorAll(".scroll")) {
  region.addEventListener("scroll", shade, { passive: true });
  widths.observe(region);
}
