// Makes a page interactive: shows and hides methods in the plots, names marks, and times traffic on a chosen link.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  const marksOf = (label) => all("[data-series]").filter((mark) => mark.dataset.series === label);
  for (const method of data.methods) {
    for (const mark of marksOf(method.label)) {
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = method.title;
      mark.prepend(title);
    }
  }
  for (const box of all("input[data-shows]")) {
    box.hidden = false;
    box.addEventListener("change", () => {
      for (const mark of marksOf(box.dataset.shows)) mark.style.display = box.checked ? "" : "none";
    });
  }

  // One round after the other, its clients side by side: the longest transfer counts. [bytes up, down, exchanges]
  const secondsOf = (rounds, link) =>
    rounds.reduce(
      (sum, [up, down, exchanges]) =>
        sum + (8 * up) / (link.up * 1e6) + (8 * down) / (link.down * 1e6) + (2 * exchanges * link.latency) / 1e3,
      0,
    );
  const spoken = (seconds) => {
    if (seconds < 59.5) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    const two = (number) => String(number).padStart(2, "0");
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  };
  const timed = data.methods.filter(({ seeds }) => seeds.length);
  const sliders = all("#link input[type=range]");
  const update = () => {
    const link = {};
    for (const slider of sliders) {
      const value = Number((10 ** slider.value).toPrecision(2));
      link[slider.name] = value;
      slider.nextElementSibling.textContent = `${value} ${slider.dataset.unit}`;
    }
    const means = timed.map(
      ({ seeds }) => seeds.reduce((sum, rounds) => sum + secondsOf(rounds, link), 0) / seeds.length,
    );
    const longest = Math.max(...means);
    all("#link tbody tr").forEach((row, place) => {
      row.querySelector(".time").textContent = spoken(means[place]);
      row.querySelector(".bar").style.width = `${longest ? (100 * means[place]) / longest : 0}%`;
    });
  };
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const slider of sliders) {
    if (asked.get(slider.name) > 0) slider.value = Math.log10(asked.get(slider.name));
    slider.addEventListener("input", update);
  }
  if (sliders.length) update();
})();
