-- Claims, booked transactions, totals and known paths of one seller. Expand only: a later migration
-- adds tables and columns that an older program may ignore, and raises meta.needs_schema only when
-- an older program must not write any more.
--
-- Times: lease_until, created_at and updated_at are milliseconds since the epoch, valid_before,
-- settled_at and last_success seconds. Amounts are decimal text: 128 bits do not fit an INTEGER.
-- Addresses and transactions are lower case.

CREATE TABLE meta (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    ledger_id    TEXT NOT NULL,
    writes       INTEGER NOT NULL,
    needs_schema INTEGER NOT NULL
) STRICT;

INSERT INTO meta (only_row, ledger_id, writes, needs_schema)
VALUES (1, lower(hex(randomblob(16))), 0, 1);

CREATE TABLE claims (
    key             BLOB PRIMARY KEY NOT NULL,
    payload_hash    BLOB NOT NULL,
    state           TEXT NOT NULL,
    owner           BLOB,
    -- Of an owed row: until when a waiter keeps it from being a credit.
    lease_until     INTEGER NOT NULL,
    settles         INTEGER NOT NULL,
    payer           TEXT NOT NULL,
    route           TEXT NOT NULL,
    chain_id        INTEGER NOT NULL,
    asset           TEXT NOT NULL,
    amount          TEXT NOT NULL,
    pay_to          TEXT NOT NULL,
    offer_namespace TEXT NOT NULL,
    offer_name      TEXT NOT NULL,
    -- What the facilitator named; it paid for this row only if booked_transactions says so.
    tx              TEXT,
    -- Key of the credit that a credit_spent row spent.
    spends          BLOB,
    valid_before    INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    settled_at      INTEGER
) STRICT;

-- One buyer's credits and unknowns, found at every claim.
CREATE INDEX claims_open ON claims (payer, route)
    WHERE state IN ('settling', 'owed', 'unknown');
-- Leases to apply.
CREATE INDEX claims_leased ON claims (lease_until)
    WHERE state IN ('claimed', 'settling');
-- Rows to prune.
CREATE INDEX claims_valid_before ON claims (valid_before);

-- Network and transaction are unique together for good: a row may be pruned, this is not.
CREATE TABLE booked_transactions (
    chain_id INTEGER NOT NULL,
    tx       TEXT NOT NULL,
    key      BLOB NOT NULL,
    PRIMARY KEY (chain_id, tx)
) STRICT, WITHOUT ROWID;

-- What pruned rows had settled.
CREATE TABLE totals (
    offer_namespace TEXT NOT NULL,
    offer_name      TEXT NOT NULL,
    chain_id        INTEGER NOT NULL,
    asset           TEXT NOT NULL,
    count           INTEGER NOT NULL,
    amount          TEXT NOT NULL,
    last_success    INTEGER NOT NULL,
    PRIMARY KEY (offer_namespace, offer_name, chain_id, asset)
) STRICT, WITHOUT ROWID;

-- Paths that are or were paid. An empty host stands for every host.
CREATE TABLE paths (
    host      TEXT NOT NULL,
    pattern   TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    uid       TEXT NOT NULL,
    base      TEXT NOT NULL,
    -- RFC 3339, exact.
    closed_at TEXT,
    PRIMARY KEY (host, pattern, namespace, name, uid)
) STRICT, WITHOUT ROWID;
