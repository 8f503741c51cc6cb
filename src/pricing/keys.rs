//! Every key of the document, and the nearest one to a misspelt key.
//!
//! The predecessor ignored unknown keys in silence, so a misspelt `payTo` sold for somebody else's
//! wallet. Here each key of the predecessor is known, used or not, and ours beside them; what is in
//! no list is a warning with a suggestion (an error with `--strict`).

/// A key that is known in one section.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Its spelling.
    pub(super) name: &'static str,
    /// What is done with it.
    pub(super) meaning: Meaning,
}

/// What is done with a known key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    /// It is read.
    Read,
    /// It describes the offer and changes nothing about payment.
    Silent,
    /// It asks for something this version does not do; the text says what happens instead.
    Unused(&'static str),
}

const fn read(name: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Read,
    }
}

const fn silent(name: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Silent,
    }
}

const fn unused(name: &'static str, instead: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Unused(instead),
    }
}

/// Keys of the document itself.
pub(super) const ROOT: &[Known] = &[
    read("wallet"),
    read("chain"),
    read("facilitatorURL"),
    read("facilitatorHeadersFile"),
    read("verifyOnly"),
    read("routes"),
    read("unmatched"),
    read("managedPrefixes"),
    read("pathOwners"),
    read("trustedProxies"),
    read("headerSource"),
    read("publicOrigin"),
    read("verifySecretFile"),
    read("settle"),
    read("eoaOnly"),
    read("validitySlack"),
    read("closedPathRetention"),
    read("closedPathsPerNamespace"),
    read("catalogURL"),
    read("serviceName"),
    read("limits"),
    read("timeouts"),
    read("metrics"),
    unused("authCaptureUnlock", "every payment is an exact payment"),
];

/// Keys of a route.
pub(super) const ROUTE: &[Known] = &[
    read("pattern"),
    read("price"),
    read("description"),
    read("payTo"),
    read("network"),
    read("assetAddress"),
    read("assetSymbol"),
    read("assetDecimals"),
    read("assetTransferMethod"),
    read("eip712Name"),
    read("eip712Version"),
    read("upstreamAuth"),
    read("priceModel"),
    read("perMTok"),
    read("approxTokensPerRequest"),
    read("offerNamespace"),
    read("offerName"),
    read("maxTimeoutSeconds"),
    read("payments"),
    read("hostname"),
    read("gate"),
    read("settle"),
    read("preflight"),
    read("eoaOnly"),
    read("facilitatorURL"),
    silent("agentModel"),
    silent("agentSkills"),
    silent("agentRuntime"),
    silent("offerType"),
    silent("model"),
    silent("branding"),
    silent("asyncTTL"),
    silent("asyncVisibility"),
    silent("dataset"),
    silent("skill"),
    unused("upstreamURL", "the ingress chooses the upstream"),
    unused("stripPrefix", "the ingress rewrites paths"),
    unused("async", "the answer is synchronous"),
    unused("brokerURL", "the answer is synchronous"),
    unused("freeQuota", "every request is paid"),
    unused("card", "only x402 payments are taken"),
];

/// Keys of an entry of `payments`, which are also read from the route itself without it.
pub(super) const PAYMENT: &[Known] = &[
    read("price"),
    read("payTo"),
    read("network"),
    read("assetAddress"),
    read("assetSymbol"),
    read("assetDecimals"),
    read("assetTransferMethod"),
    read("eip712Name"),
    read("eip712Version"),
    read("priceModel"),
    read("perMTok"),
    read("approxTokensPerRequest"),
    read("maxTimeoutSeconds"),
];

/// Keys of `limits`.
pub(super) const LIMITS: &[Known] = &[
    read("paymentHeaderBytes"),
    read("permitsPerFacilitator"),
    read("permitsPerOffer"),
    read("permitsUnrecovered"),
    read("verifyRatePerPayer"),
    read("verifyRatePerOffer"),
    read("maxUnsettledPerPayer"),
];

/// Keys of `timeouts`.
pub(super) const TIMEOUTS: &[Known] = &[
    read("answer"),
    read("facilitatorConnect"),
    read("verify"),
    read("settle"),
    read("settleFloor"),
];

/// Keys of `metrics`.
pub(super) const METRICS: &[Known] = &[read("perOffer"), read("prefix")];

/// Keys of an entry of `pathOwners`.
pub(super) const PATH_OWNER: &[Known] = &[read("prefix"), read("host"), read("namespaces")];

/// What a misspelt key was probably meant to be, as a hint.
pub(super) fn nearest(key: &str, known: &[Known]) -> Option<String> {
    const LONGEST: usize = 40;
    if key.len() > LONGEST {
        return None;
    }
    let closest = known
        .iter()
        .map(|known| (distance(key, known.name), known.name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1));
    if let Some((_, name)) = closest {
        return Some(format!("did you mean {name}?"));
    }
    let elsewhere = |section: &[Known]| section.iter().any(|known| known.name == key);
    if elsewhere(ROOT) {
        return Some(format!("{key} belongs at the top level of the document"));
    }
    if elsewhere(ROUTE) {
        return Some(format!("{key} belongs to an entry of routes"));
    }
    None
}

/// Edits between two words, letter case aside: insert, remove, replace, swap neighbours.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut left = None;
    for (index, letter) in one.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(index + 1);
        for (column, candidate) in other.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let replaced = cell(&row, column) + usize::from(letter != *candidate);
            let mut best = replaced
                .min(cell(&row, column + 1) + 1)
                .min(cell(&next, column) + 1);
            let swapped =
                column > 0 && left == Some(*candidate) && other.get(column - 1) == Some(&letter);
            if swapped {
                best = best.min(cell(&before, column - 1) + 1);
            }
            next.push(best);
        }
        before = row;
        row = next;
        left = Some(letter);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_answered_with_the_nearest_one() {
        for (found, hint) in [
            ("payto", "did you mean payTo?"),
            ("patern", "did you mean pattern?"),
            ("prcie", "did you mean price?"),
            ("facilitatorUrl", "did you mean facilitatorURL?"),
            ("wallet", "wallet belongs at the top level of the document"),
        ] {
            assert_eq!(nearest(found, ROUTE).as_deref(), Some(hint), "{found}");
        }
        assert_eq!(nearest("entirelyDifferent", ROUTE), None);
        assert_eq!(
            nearest("pattern", ROOT).as_deref(),
            Some("pattern belongs to an entry of routes")
        );
    }

    #[test]
    fn distance_counts_edits_and_swaps() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "ABC"), 0);
        assert_eq!(distance("acb", "abc"), 1);
        assert_eq!(distance("ab", "abc"), 1);
    }
}
