"use strict";
// Shows only the predictions that match; without scripts the whole table stays.
const controls = document.getElementById("filter");
if (controls) {
  const rows = [...document.querySelectorAll("#predictions-table tbody tr")];
  const text = controls.querySelector("[name=text]");
  const truth = controls.querySelector("[name=truth]");
  const wrong = controls.querySelector("[name=wrong]");
  const shown = controls.querySelector("output");
  const show = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const name = row.dataset.name.toLowerCase();
      const fits = words.every((w) => name.includes(w))
        && (!truth.value || row.dataset.truth === truth.value)
        && (!wrong.checked || row.classList.contains("wrong"));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} clips`;
  };
  controls.hidden = false;
  controls.addEventListener("input", show);
  controls.addEventListener("submit", (event) => event.preventDefault());
  show();
}
