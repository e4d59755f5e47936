// The map of the embedding: draws a point per image and shows the picture that is nearest to the pointer.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const box = document.getElementById("map");
  const plot = box.querySelector("svg");
  const card = box.querySelector(".card");
  const thumbnail = card.querySelector(".thumbnail");
  const ring = plot.querySelector(".ring");
  const count = data.group.length;
  const margin = 16, extent = 1000;
  let points = data.layouts[0].points, chosen = -1, alone = -1;

  const dots = data.group.map(function (group) {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    const colour = data.groups[group].colour;
    dot.setAttribute("r", count > 600 ? 7 : 10);
    dot.setAttribute("class", colour === null ? "other" : "class" + colour);
    plot.insertBefore(dot, ring);
    return dot;
  });

  function arrange(number) {
    points = data.layouts[number].points;
    dots.forEach(function (dot, i) {
      dot.setAttribute("cx", points[i][0]);
      dot.setAttribute("cy", points[i][1]);
    });
    hide();
  }

  function hide() {
    chosen = -1;
    card.hidden = true;
    ring.setAttribute("visibility", "hidden");
  }

  function show(i) {
    if (i === chosen) return;
    chosen = i;
    const [width, height] = data.tile;
    const scale = 112 / Math.max(width, height);
    const row = Math.floor(i / data.columns), column = i % data.columns;
    thumbnail.style.width = width * scale + "px";
    thumbnail.style.height = height * scale + "px";
    thumbnail.style.backgroundSize = data.sheet[0] * scale + "px " + data.sheet[1] * scale + "px";
    thumbnail.style.backgroundPosition = -column * width * scale + "px " + -row * height * scale + "px";
    card.querySelector(".class").textContent = data.classes[i];
    card.querySelector(".name").textContent = data.names[i];
    card.hidden = false;
    ring.setAttribute("cx", points[i][0]);
    ring.setAttribute("cy", points[i][1]);
    ring.setAttribute("visibility", "visible");
    // Beside the point, on the side with more room, and inside the map.
    const area = plot.getBoundingClientRect(), unit = area.width / (extent + 2 * margin);
    const x = (points[i][0] + margin) * unit, y = (points[i][1] + margin) * unit;
    const left = x < area.width / 2 ? x + 14 : x - card.offsetWidth - 14;
    const top = y - card.offsetHeight / 2;
    card.style.left = Math.max(0, Math.min(left, area.width - card.offsetWidth)) + "px";
    card.style.top = Math.max(0, Math.min(top, area.height - card.offsetHeight)) + "px";
  }

  function nearest(event) {
    const area = plot.getBoundingClientRect(), unit = area.width / (extent + 2 * margin);
    const x = (event.clientX - area.left) / unit - margin, y = (event.clientY - area.top) / unit - margin;
    let best = -1, distance = Math.pow(24 / unit, 2);
    for (let i = 0; i < count; i++) {
      if (alone >= 0 && data.group[i] !== alone) continue;
      const away = Math.pow(points[i][0] - x, 2) + Math.pow(points[i][1] - y, 2);
      if (away < distance) { best = i; distance = away; }
    }
    return best;
  }

  function follow(event) {
    const i = nearest(event);
    if (i >= 0) show(i); else hide();
  }

  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") hide(); });
  // From left to right by keyboard.
  plot.addEventListener("keydown", function (event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const order = points.map(function (_, i) { return i; })
      .filter(function (i) { return alone < 0 || data.group[i] === alone; })
      .sort(function (a, b) { return points[a][0] - points[b][0] || a - b; });
    const place = order.indexOf(chosen);
    show(order[place < 0 ? 0 : (place + step + order.length) % order.length]);
  });

  function choices(selector, names, pressed) {
    const bar = box.querySelector(selector);
    return names.map(function (name, i) {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.append(name);
      button.addEventListener("click", function () { pressed(i); });
      bar.append(button);
      return button;
    });
  }

  function press(buttons, which) {
    buttons.forEach(function (button, i) { button.setAttribute("aria-pressed", String(i === which)); });
  }

  const layouts = choices(".layouts", data.layouts.map(function (layout) { return layout.name; }), function (i) {
    press(layouts, i);
    arrange(i);
  });
  if (data.groups.length > 1 || data.groups[0].name) {
    const groups = choices(".groups", data.groups.map(function (group) { return group.name; }), function (i) {
      alone = alone === i ? -1 : i;
      press(groups, alone);
      dots.forEach(function (dot, k) { dot.classList.toggle("faint", alone >= 0 && data.group[k] !== alone); });
      hide();
    });
    groups.forEach(function (button, i) {
      const key = document.createElement("span"), colour = data.groups[i].colour;
      key.className = "key " + (colour === null ? "other" : "class" + colour);
      button.prepend(key);
    });
  }
  press(layouts, 0);
  arrange(0);
  box.hidden = false;
})();
