// The pages: where each lives, what it is called, the scope without which there is nothing to show, and what opens it.
// `open(element, {model, feed, rest})` fills the element and returns what ends the page.

import { configPage } from "./pages/config.js";
import { dataPage } from "./pages/data.js";
import { logsPage } from "./pages/logs.js";
import { mapPage } from "./pages/map.js";
import { messagesPage } from "./pages/messages.js";
import { nodesPage } from "./pages/nodes.js";
import { overviewPage } from "./pages/overview.js";
import { reportPage } from "./pages/report.js";
import { syncPage } from "./pages/sync.js";
import { tokensPage } from "./pages/tokens.js";

export const ROUTES = {
  overview: { path: "", title: "Overview", scope: "status:read", open: overviewPage },
  map: { path: "map", title: "Map", scope: "nodes:read", open: mapPage },
  nodes: { path: "nodes", title: "Nodes", scope: "nodes:read", open: nodesPage },
  sync: { path: "sync", title: "Sync", scope: "status:read", open: syncPage },
  data: { path: "data", title: "Data", scope: "data:read", open: dataPage },
  messages: { path: "messages", title: "Messages", scope: "messages:read", open: messagesPage },
  logs: { path: "logs", title: "Logs", scope: "logs:read", open: logsPage },
  report: { path: "report", title: "Report", scope: "status:read", open: reportPage },
  tokens: { path: "tokens", title: "Tokens", scope: "tokens:read", open: tokensPage },
  config: { path: "config", title: "Settings", scope: "config:read", open: configPage },
};

export const SECTIONS = [
  ["Mesh", ["overview", "map", "nodes", "sync"]],
  ["Content", ["data", "messages"]],
  ["This node", ["logs", "report", "tokens", "config"]],
];
