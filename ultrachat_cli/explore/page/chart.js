"use strict";
// The map itself: Apache ECharts on a canvas, a series for each colour.

const box = document.getElementById("chart");
const chart = echarts.init(box, null, { renderer: "canvas" });
const size = count <= 3000 ? 7 : count <= 10000 ? 5 : 3; // below 4 ECharts draws squares, which is the fastest
let brush = ""; // what is being drawn: "", "rect" or "polygon"

function css(name) {
  // A custom property holds light-dark() unresolved; a colour that uses it is resolved.
  box.style.color = `var(${name})`;
  return getComputedStyle(box).color;
}

const rightmost = map.x.reduce((a, b) => Math.max(a, b), 1);
const topmost = map.y.reduce((a, b) => Math.max(a, b), 1);

// The whole map in the middle, one unit as wide as it is high.
function axes() {
  const [width, height] = [box.clientWidth || 1, box.clientHeight || 1];
  const unit = 1.08 * Math.max(rightmost / width, topmost / height);
  const axis = (end, pixels) => {
    const spare = (unit * pixels - end) / 2;
    return { type: "value", min: -spare, max: end + spare, show: false };
  };
  return { xAxis: axis(rightmost, width), yAxis: axis(topmost, height) };
}

function series(id, z, coordinates, colour, more) {
  return {
    id, z, type: "scatter", data: new Float32Array(coordinates), dimensions: ["x", "y"], symbolSize: size,
    large: true, largeThreshold: 0, progressive: 0, silent: true, animation: false,
    itemStyle: { color: colour, opacity: 0.85 }, ...more,
  };
}

function drawChart() {
  const { labels, codes } = colouring();
  const rest = [];
  const groups = labels.map(() => []);
  for (let i = 0; i < count; i++) (shown[i] ? groups[codes[i]] : rest).push(map.x[i], map.y[i]);
  const opened = state.opened < 0 ? [] : [map.x[state.opened], map.y[state.opened]];
  const ring = { color: "transparent", borderColor: css("--text"), borderWidth: 3, opacity: 1 };
  const all = [
    series("rest", 1, rest, css("--rest")),
    ...groups.map((group, label) => series(`label-${label}`, 2, group, colourOf(label))),
    series("opened", 3, opened, "", { large: false, symbolSize: 16, itemStyle: ring }),
  ];
  // ECharts cannot draw a large series without points.
  chart.setOption({ series: all.filter(({ data }) => data.length) }, { replaceMerge: ["series"] });
}

function setUpChart() {
  chart.setOption({
    animation: false,
    grid: { left: 0, right: 0, top: 0, bottom: 0 },
    dataZoom: [
      { type: "inside", xAxisIndex: 0, filterMode: "none" },
      { type: "inside", yAxisIndex: 0, filterMode: "none" },
    ],
    brush: {
      xAxisIndex: 0, yAxisIndex: 0, seriesIndex: [], toolbox: [], transformable: false, // we decide what is inside
      brushStyle: { color: "rgba(11, 91, 211, .08)", borderColor: "#4a8df0", borderWidth: 1.5 },
    },
    ...axes(),
  });
  new ResizeObserver(() => {
    chart.resize();
    chart.setOption(axes());
  }).observe(box);
}

// Let the next drag draw a "rect" or "polygon"; "": move the map.
function draw(type) {
  brush = type;
  chart.dispatchAction({
    type: "takeGlobalCursor", key: "brush", brushOption: { brushType: type || false, brushMode: "single" },
  });
}

function clearBrush() {
  chart.dispatchAction({ type: "brush", areas: [] });
}

// Show `factor` times as much as now, around the same middle.
function zoom(factor) {
  const batch = chart.getOption().dataZoom.map(({ start, end }, dataZoomIndex) => {
    const half = Math.min(50, ((end - start) / 2) * factor);
    const middle = Math.min(100 - half, Math.max(half, (start + end) / 2));
    return { dataZoomIndex, start: middle - half, end: middle + half };
  });
  chart.dispatchAction({ type: "dataZoom", batch });
}

// The shown dialogue nearest to a pixel, -1 where none is near.
function nearest(px, py) {
  const axes = { xAxisIndex: 0, yAxisIndex: 0 };
  const [left, bottom] = chart.convertToPixel(axes, [0, 0]);
  const [right, top] = chart.convertToPixel(axes, [rightmost, topmost]);
  let best = -1;
  let least = 10 ** 2;
  for (let i = 0; i < count; i++) {
    if (!shown[i]) continue;
    const dx = left + ((right - left) * map.x[i]) / rightmost - px;
    const dy = bottom + ((top - bottom) * map.y[i]) / topmost - py;
    if (dx * dx + dy * dy < least) [best, least] = [i, dx * dx + dy * dy];
  }
  return best;
}
