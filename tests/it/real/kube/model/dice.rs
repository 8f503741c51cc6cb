//! Random numbers that a printed seed brings back (splitmix64).

/// A die.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

/// The seed of `X402_MODEL_SEED`, else one of the clock's.
pub(super) fn seed() -> u64 {
    match std::env::var("X402_MODEL_SEED") {
        Ok(text) => text.parse().expect("X402_MODEL_SEED is a number"),
        Err(_unset) => jiff::Timestamp::now().as_microsecond().unsigned_abs() % 1_000_000,
    }
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number under `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = (mixed ^ (mixed >> 31)) % limit as u64;
        usize::try_from(drawn).expect("it is less than one")
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }
}
