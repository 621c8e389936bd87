//! (under construction)
pub mod philox {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Purpose {
        Init = 0,
        Data = 1,
        Timestep = 2,
        Noise = 3,
        Evaluation = 4,
    }
    pub fn words(_: u64, _: Purpose, _: u32, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    pub fn uniform_int(w: u32, n: u32) -> u32 {
        ((w as u64 * n as u64) >> 32) as u32
    }
    pub fn normal4(_: [u32; 4]) -> [f32; 4] {
        [0.0; 4]
    }
    pub fn fill_normal(_: u64, _: Purpose, _: u32, _: u32, _o: &mut [f32]) {}
}
