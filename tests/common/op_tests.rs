//! One list of the op tables, for every backend that must pass them.

/// The tables of all ops as tests, a name each; `$run` takes the cases of one.
#[macro_export]
macro_rules! op_tests {
    ($run:path) => {
        $crate::op_tests! { $run;
            conv2d => $crate::common::conv_cases::forward,
            conv2d_fused => $crate::common::conv_cases::fused,
            conv2d_quantized => $crate::common::conv_cases::quantized,
            conv2d_normalised => $crate::common::conv_cases::normalised,
            group_norm_of_moments => $crate::common::conv_cases::measured,
            conv2d_joined => $crate::common::conv_cases::joined,
            conv2d_merged => $crate::common::conv_cases::merged,
            conv2d_gradients => $crate::common::conv_cases::gradients,
            unary => $crate::common::cases::unary,
            affine_and_cast => $crate::common::cases::affine_and_cast,
            binary => $crate::common::cases::binary,
            combine_and_threshold => $crate::common::cases::combine,
            resample => $crate::common::cases::resample,
            shapes => $crate::common::cases::shapes,
            transpose => $crate::common::cases::transpose,
            reduce => $crate::common::cases::reduce,
            quantize => $crate::common::cases::quantize,
            timestep_embedding => $crate::common::cases::timestep_embedding,
            gather => $crate::common::cases::gather,
            random => $crate::common::cases::random,
            norms => $crate::common::cases::norms,
            optimizer => $crate::common::cases::optimizer,
            muon => $crate::common::muon_cases::muon,
            group_norm => $crate::common::cases::group_norm,
            attention => $crate::common::cases::attention,
            head_product => $crate::common::cases::head_product,
        }
    };
    ($run:path; $($name:ident => $table:path,)*) => {
        $(
            #[test]
            fn $name() {
                $run($table());
            }
        )*

        #[test]
        fn every_op_has_a_row() {
            $crate::common::check_every_op_has_a_row([$($table()),*].iter().flatten());
        }
    };
}
