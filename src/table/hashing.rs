//! How the table hashes: fast, and seeded by the operating system.
//!
//! What requests bring is only looked up, but what stands in the maps is partly written by tenants.
//! Nobody outside sees a seed or a hash, so nobody can choose names that meet in one bucket; each
//! process, and each hasher in it, has its own.

use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};
use std::hash::{BuildHasher, Hasher, RandomState};

/// A seeded hash function.
#[derive(Debug, Clone)]
pub(super) struct Keyed(SeedableRandomState);

impl Keyed {
    /// The hash of a text below a number.
    pub(super) fn edge(&self, parent: u32, text: &[u8]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write_u32(parent);
        hasher.write(text);
        hasher.finish()
    }
}

impl Default for Keyed {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(0_u8);
        Self(SeedableRandomState::with_seed(
            seed,
            SharedSeed::global_random(),
        ))
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}
