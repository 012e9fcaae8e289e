// Codes as they stand: those from 8 on are not the others' negatives.
const MIRRORED: bool = false;

fn signs_apart(word: u32) -> u32 {
    return word;
}
