// The parts of Apache ECharts 6.1.0 (npm, Apache-2.0) that the map needs. echarts.min.js is made of this file:
//   npm install echarts@6.1.0 esbuild@0.28.2 && npx esbuild echarts.entry.js --bundle --minify --target=es2020 --legal-comments=none
//     --format=iife --global-name=echarts --define:process.env.NODE_ENV='"production"' --outfile=echarts.min.js
import * as core from "echarts/core";
import { ScatterChart } from "echarts/charts";
import { BrushComponent, DataZoomInsideComponent, GridComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";

core.use([ScatterChart, BrushComponent, DataZoomInsideComponent, GridComponent, CanvasRenderer]);
export const { init, version } = core;
