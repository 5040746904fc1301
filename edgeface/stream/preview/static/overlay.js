// What is known of the faces, drawn over the picture at the screen's own resolution, so that it stays sharp.

const COLOURS = ["#4cc38a", "#f2b44b", "#6db3ff", "#f27ca8", "#c29bff", "#67d7d7", "#e6e05c", "#ff9466"];
const AXES = ["#ff6b6b", "#63e063", "#5da9ff"];
const FILLED_IN = [6, 4];

export function draw(canvas, frame, parts) {
  const box = canvas.getBoundingClientRect();
  const density = window.devicePixelRatio || 1;
  const width = Math.round(box.width * density);
  const height = Math.round(box.height * density);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (frame) {
    paint(pen, frame, parts, width / frame.width, density);
  }
}

// ``scale`` is pixels of the canvas a pixel of the picture; line widths and letters are in pixels of the screen.
export function paint(pen, frame, parts, scale, density) {
  for (const [i, face] of frame.faces.entries()) {
    const colour = COLOURS[Math.max(0, (face.track || 1) - 1) % COLOURS.length];
    pen.strokeStyle = colour;
    pen.fillStyle = colour;
    pen.lineWidth = 2 * density;
    const [x1, y1, x2, y2] = face.box.map((v) => v * scale);
    if (parts.boxes) {
      pen.setLineDash(face.seen ? [] : FILLED_IN.map((v) => v * density));
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
      pen.setLineDash([]);
    }
    if (parts.points) {
      const radius = Math.max(1.5 * density, (x2 - x1) * 0.02);
      drawPoints(pen, face.landmarks68 ?? [], scale, radius / 2);
      drawPoints(pen, face.landmarks ?? [], scale, radius);
    }
    if (parts.pose && frame.axes && frame.axes[i].every(isKnown)) {
      drawAxes(pen, face, frame.axes[i], scale, density);
    }
    label(pen, face, parts, x1, y1, y2, density, colour);
  }
}

function drawPoints(pen, points, scale, radius) {
  for (const [x, y] of points.filter(isKnown)) {
    pen.beginPath();
    pen.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
    pen.fill();
  }
}

// From the nose tip: red to the image's right along the eyes, green down the face, blue where the head looks.
function drawAxes(pen, face, ends, scale, density) {
  const [x1, y1, x2, y2] = face.box;
  const nose = face.landmarks && isKnown(face.landmarks[2]) ? face.landmarks[2] : [(x1 + x2) / 2, (y1 + y2) / 2];
  const length = (x2 - x1) * 0.5;
  pen.lineWidth = 2.5 * density;
  ends.forEach(([dx, dy], i) => {
    pen.strokeStyle = AXES[i];
    pen.beginPath();
    pen.moveTo(nose[0] * scale, nose[1] * scale);
    pen.lineTo((nose[0] + length * dx) * scale, (nose[1] + length * dy) * scale);
    pen.stroke();
  });
}

// JSON has null where a number is none.
function isKnown([x, y]) {
  return x !== null && y !== null;
}

function label(pen, face, parts, x1, y1, y2, density, colour) {
  const words = [];
  if (parts.numbers) {
    words.push(face.track === null ? face.score.toFixed(2) : `${face.track} · ${face.score.toFixed(2)}`);
  }
  if (parts.attributes) {
    // Quality is a matter of degree.
    words.push(...face.present.filter((name) => name !== "quality"));
    for (const [name, classes] of Object.entries(face.classes ?? {})) {
      const expected = face.expectations?.[name];
      const [likeliest] = Object.entries(classes).reduce((best, each) => (each[1] > best[1] ? each : best));
      words.push(expected === undefined ? likeliest : `${name} ${expected.toFixed(0)}`);
    }
    if (typeof face.attributes.quality === "number") {
      words.push(`q${face.attributes.quality.toFixed(2).replace(/^0/, "")}`);
    }
  }
  if (!words.length) {
    return;
  }
  const size = 13 * density;
  const text = words.join("  ");
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const width = pen.measureText(text).width + 8 * density;
  const top = y1 - size * 1.4 >= 0 ? y1 - size * 1.4 : y2;
  pen.fillStyle = "#000b";
  pen.fillRect(x1, top, width, size * 1.4);
  pen.fillStyle = colour;
  pen.fillText(text, x1 + 4 * density, top + size * 1.05);
}
