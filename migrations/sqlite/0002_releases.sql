-- Closed paths that the operator released. The command that writes a row removes the row of `paths`
-- in the same transaction; a running gate reads what was added since and forgets the path as well.
-- An older program ignores this table: what was released it learns at its next start.
CREATE TABLE released_paths (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    host        TEXT NOT NULL,
    pattern     TEXT NOT NULL,
    namespace   TEXT NOT NULL,
    name        TEXT NOT NULL,
    uid         TEXT NOT NULL,
    base        TEXT NOT NULL,
    -- RFC 3339, exact: it was this closing that was released and no later one.
    closed_at   TEXT NOT NULL,
    -- Milliseconds since the epoch.
    released_at INTEGER NOT NULL
) STRICT;
