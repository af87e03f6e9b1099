// What the scopes of a token allow; the edge decides, this only spares people what it would refuse.

export const READERS = ["read", "operate", "admin"];
export const PAIRERS = ["pair", "admin"];
export const WAITING_ROOM = [...READERS, "pair"];
export const OPERATORS = ["operate", "admin"];
export const ADMINS = ["admin"];

export function may(who, scopes) {
  return who.scopes.some((scope) => scopes.includes(scope));
}
