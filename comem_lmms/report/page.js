const bodies = [...document.querySelectorAll("tbody")];

function sort(button) {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const place = [...head.parentElement.children].indexOf(head), isText = head.classList.contains("text");
  const before = head.getAttribute("aria-sort");
  const order = before ? (before === "ascending" ? "descending" : "ascending") : isText ? "ascending" : "descending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const key = (row) => row.children[place].dataset.value ?? "";
  const compare = (one, other) => {
    const a = key(one), b = key(other);
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, either way
    return sign * (isText ? a.localeCompare(b, undefined, { numeric: true }) : Number(a) - Number(b));
  };
  body.append(...[...body.rows].sort(compare));
}

function filter() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const body of bodies)
    for (const row of body.rows) {
      const name = row.dataset.name.toLowerCase();
      row.hidden = !words.every((word) => name.includes(word));
    }
  const rows = [...bodies[0].rows], left = rows.filter((row) => !row.hidden).length;
  document.getElementById("count").textContent = words.length ? left + " of " + rows.length + " lines" : "";
}

for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sort(button));
document.getElementById("filter").addEventListener("input", filter);
const parts = document.getElementById("parts");
if (parts) {
  const show = () => document.body.classList.toggle("parts-hidden", !parts.checked);
  parts.addEventListener("change", show);
  show();
}
