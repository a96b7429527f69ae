// Puts what the server of this page sends in the place of what is shown, part by part.
"use strict";
(() => {
  const notice = document.getElementById("notice");
  const source = new EventSource("events");
  source.addEventListener("message", (event) => {
    notice.textContent = "";
    for (const [name, content] of Object.entries(JSON.parse(event.data))) {
      document.getElementById(name).innerHTML = content;
    }
  });
  source.addEventListener("end", () => source.close());
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) {
      notice.textContent = "Nobody serves this page at the moment: what it shows is the last that came.";
    }
  });
})();
