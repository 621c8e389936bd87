//! Pictures for tests that no encoder at hand writes.

/// A progressive JPEG file (ITU-T T.81, annex G), grey all over: every coefficient is 0, and takes one bit. `factors` has the sampling factors of each
/// component, as the file has them.
pub fn progressive(width: u16, height: u16, factors: &[u8]) -> Vec<u8> {
    let segment = |marker: u8, body: Vec<u8>| [&[0xff, marker], &(body.len() as u16 + 2).to_be_bytes()[..], &body].concat();
    let components = |of: &dyn Fn(usize) -> Vec<u8>| (0..factors.len()).flat_map(of).collect::<Vec<u8>>();
    let frame = [&[8][..], &height.to_be_bytes(), &width.to_be_bytes(), &[factors.len() as u8], &components(&|i| vec![i as u8 + 1, factors[i], 0])].concat();
    let scan = [&[factors.len() as u8][..], &components(&|i| vec![i as u8 + 1, 0]), &[0, 0, 0]].concat();
    // One code of one bit, for "the same as before".
    let table = [&[0, 1][..], &[0; 15], &[0]].concat();
    let unit = |factor: &dyn Fn(u8) -> u8| 8 * usize::from(factors.iter().map(|f| factor(*f)).max().unwrap_or(1));
    let units = usize::from(width).div_ceil(unit(&|f| f >> 4)) * usize::from(height).div_ceil(unit(&|f| f & 15));
    let bits: usize = factors.iter().map(|f| usize::from(f >> 4) * usize::from(f & 15)).sum::<usize>() * units;
    let quantisation = [&[0][..], &[1; 64]].concat();
    let parts = [segment(0xdb, quantisation), segment(0xc2, frame), segment(0xc4, table), segment(0xda, scan), vec![0; bits.div_ceil(8)]];
    [&[0xff, 0xd8][..], &parts.concat(), &[0xff, 0xd9]].concat()
}
