// Which pages there are, and for whom.

import { ADMINS, READERS, WAITING_ROOM } from "./scopes.js";
import { clientsView } from "./view_clients.js";
import { eventsView } from "./view_events.js";
import { fleetView } from "./view_fleet.js";
import { pairingsView } from "./view_pairings.js";
import { sessionsView } from "./view_sessions.js";
import { tokensView } from "./view_tokens.js";
import { many } from "./words.js";

const counted = (count, what) => (count > 0 ? { count, words: many(count, what) } : null);

export const PAGES = [
  { id: "fleet", title: "Fleet", scopes: READERS, open: fleetView },
  {
    id: "sessions",
    title: "Sessions",
    scopes: READERS,
    open: sessionsView,
    badge: (edge) => counted(edge.sessions, "session"),
  },
  {
    id: "pairings",
    title: "Pairings",
    scopes: WAITING_ROOM,
    open: pairingsView,
    urgent: true,
    badge: (edge) => counted(edge.pairings, "waiting device"),
  },
  { id: "clients", title: "Clients", scopes: READERS, open: clientsView },
  { id: "events", title: "Events", scopes: READERS, open: eventsView },
  { id: "tokens", title: "Tokens", scopes: ADMINS, open: tokensView },
];
