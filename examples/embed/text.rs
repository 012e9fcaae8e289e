//! Sentences as token numbers, and many of them as one batch without padding.

use std::path::Path;

use anyhow::{Result, anyhow};
use tokenizers::{Tokenizer, TruncationParams};

/// What sentence-transformers cuts sentences of this model to.
const MAX_TOKENS: usize = 256;

/// Tokens of a batch: so many, or one sentence.
const BATCH_TOKENS: usize = 2048;

/// Reads the tokenizer in a model's folder.
pub(crate) fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let truncation = TruncationParams { max_length: MAX_TOKENS, ..TruncationParams::default() };
    tokenizer.with_padding(None).with_truncation(Some(truncation)).map_err(|error| anyhow!("{error}"))?;
    Ok(tokenizer)
}

/// Sentences that go through the model together: their tokens, one sentence after the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The different words, in order.
    pub(crate) words: Vec<u32>,
    /// For each token: which of `words` it is, its position, its sentence's first token and number of tokens.
    pub(crate) tokens: Vec<[u32; 4]>,
    /// For each sentence: its first token and number of tokens.
    pub(crate) sentences: Vec<[u32; 2]>,
    /// Tokens of the longest sentence.
    pub(crate) longest: u32,
}

/// Cuts sentences into batches, in order.
pub(crate) fn batches(tokenizer: &Tokenizer, sentences: &[String]) -> Result<Vec<Batch>> {
    let encodings = tokenizer
        .encode_batch(sentences.iter().map(String::as_str).collect(), true)
        .map_err(|error| anyhow!("{error}"))?;
    let mut batches: Vec<Vec<&[u32]>> = Vec::new();
    let mut n_tokens = usize::MAX;
    for ids in encodings.iter().map(tokenizers::Encoding::get_ids) {
        n_tokens = n_tokens.saturating_add(ids.len());
        if n_tokens > BATCH_TOKENS {
            batches.push(Vec::new());
            n_tokens = ids.len();
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(ids);
        }
    }
    Ok(batches.iter().map(|sentences| Batch::new(sentences)).collect())
}

impl Batch {
    fn new(sentences: &[&[u32]]) -> Self {
        let mut batch = Self { words: sentences.concat(), ..Self::default() };
        batch.words.sort_unstable();
        batch.words.dedup();
        for ids in sentences {
            let (first, n_tokens) = (batch.n_tokens(), to_u32(ids.len()));
            for (word, position) in ids.iter().zip(0..) {
                let row = to_u32(batch.words.partition_point(|other| other < word));
                batch.tokens.push([row, position, first, n_tokens]);
            }
            batch.sentences.push([first, n_tokens]);
            batch.longest = batch.longest.max(n_tokens);
        }
        batch
    }

    pub(crate) fn n_tokens(&self) -> u32 {
        to_u32(self.tokens.len())
    }

    pub(crate) fn n_sentences(&self) -> u32 {
        to_u32(self.sentences.len())
    }
}

/// Counts here are of a batch, or of words.
pub(crate) fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
