//! Times the library's call on 64 Mi weights, for `benches/python.py`: `time_quantize FORMAT REPEATS` prints the seconds of
//! the fastest, and the digest of what came out.

use std::time::Instant;

use wgquant::Format;

const N_ELEMS: u32 = 64 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (format, repeats) = (arguments.next().ok_or("which format?")?, arguments.next().ok_or("how often?")?);
    let (format, repeats) = (Format::from_name(&format)?, repeats.parse::<usize>()?);
    let weights: Vec<f32> =
        (0..N_ELEMS).map(|ix| ix.wrapping_mul(2_654_435_761).cast_signed() as f32 / 2_f32.powi(31)).collect();
    let mut fastest = f64::INFINITY;
    let mut digest = String::new();
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        let packed = wgquant::quantize(format, &weights)?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        digest = packed.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    }
    println!("{fastest} {digest}");
    Ok(())
}
