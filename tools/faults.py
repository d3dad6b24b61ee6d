"""Seeded faults: plausible one-line mistakes, and the tests that must catch them.

`python -m tools.seeded_faults` tries them. Faults are located by their text: after a rename, update `old` and `new`.
"""

from __future__ import annotations

from tools.seeded_faults import Fault

FAULTS = {
    # ops: from stored tensors to kernels
    "wrong_shuffle": Fault(
        "ops",
        "table = np.arange(channels).reshape(groups, -1, block_size)",
        "table = np.arange(channels).reshape(-1, groups, block_size)",
        ("tests/ops/test_permutations.py::test_channel_shuffle_is_a_permutation_with_the_table_read_by_columns",),
    ),
    "filters_repeated_one_by_one": Fault(
        "ops",
        "ops.tile(kernel, (1, 1, 1, channel_repeats))",
        "ops.repeat(kernel, channel_repeats, axis=3)",
        ("tests/ops/test_kernels.py::test_repeat_uses_the_bank_with_its_own_period",),
    ),
    "one_arrangement_too_early": Fault(
        "ops",
        "[ops.take(base, order, axis=2) for order in orders[1:]]",
        "[ops.take(base, order, axis=2) for order in orders[:-1]]",
        ("tests/ops/test_kernels.py::test_arrange_puts_base_filters_first_inside_each_group",),
    ),
    "gradient_misses_arranged_copies": Fault(
        "ops",
        "[ops.take(base, order, axis=2) for order in orders[1:]]",
        "[ops.take(ops.stop_gradient(base), order, axis=2) for order in orders[1:]]",
        ("tests/layers/test_highly_shared_conv2d.py::test_gradients_equal_finite_differences_of_the_loop",),
    ),
    "chain_reads_the_first_group": Fault(
        "ops",
        "ops.matmul(columns[group - 1], kernel[:, :, size:])",
        "ops.matmul(columns[0], kernel[:, :, size:])",
        ("tests/ops/test_hierarchical.py::test_both_forms_equal_a_loop_written_from_the_equations",),
    ),
    "zeros_on_the_wrong_side": Fault(
        "ops",
        "return both // 2, both - both // 2",
        "return both - both // 2, both // 2",
        ("tests/layers/test_depthwise_conv2d.py::test_sum_over_places_equals_a_loop",),
    ),
    "kernels_rounded_to_128_steps": Fault(
        "ops",
        "numbers, -limit, limit, narrow_range=True, axis=None if axis is None else -1",
        "numbers, -limit, limit, narrow_range=False, axis=None if axis is None else -1",
        ("tests/ops/test_rounding.py::test_filters_are_whole_multiples_of_a_127th_of_the_largest",),
    ),
    # layers
    "statistics_move_too_fast": Fault(
        "layers",
        "moving.assign(moving * self.momentum + ops.stop_gradient(moment) * (1 - self.momentum))",
        "moving.assign(moving * (1 - self.momentum) + ops.stop_gradient(moment) * self.momentum)",
        ("tests/layers/test_batch_normalization.py::test_equals_the_layer_of_keras",),
    ),
    "range_of_another_use": Fault(
        "layers",
        "here = ops.arange(self.places) == place",
        "here = ops.arange(self.places) == 0",
        ("tests/layers/test_fake_quantize.py::test_several_places_have_the_widest_range_of_any",),
    ),
    "border_of_zeros_before_max_pooling": Fault(
        "layers",
        '*((border, border) for border in borders), (0, 0)), mode="symmetric")',
        "*((border, border) for border in borders), (0, 0)))",
        ("tests/layers/test_channel_layers.py::test_pooling_equals_padding_with_minus_infinity",),
    ),
    "bank_of_the_wrong_groups": Fault(
        "layers",
        "bank_groups = self.groups // self.channel_repeats",
        "bank_groups = 1",
        ("tests/layers/test_highly_shared_conv2d.py::test_equals_a_loop_written_from_the_equations",),
    ),
    "pointwise_part_twice": Fault(
        "layers",
        "return ops.add(self.spatial.effective_kernel(), central)",
        "return ops.add(self.spatial.effective_kernel(), 2 * central)",
        ("tests/layers/test_parallel_conv2d.py::test_is_the_sum_of_both",),
    ),
    # models
    "blocks_share_across_no_stage": Fault(
        "models",
        'return first[share] if index == 1 else share != "none"',
        'return first[share] if index == 1 else share == "all"',
        ("tests/models/test_sharesnet.py::test_named_networks_share_as_specified",),
    ),
    "stride_pads_behind_only": Fault(
        "models",
        "return keras.layers.ZeroPadding2D(kernel_size // 2, data_format",
        "return keras.layers.ZeroPadding2D(((0, kernel_size - 1),) * 2, data_format",
        ("tests/models/test_sharesnet_reference.py::test_equals_the_network_computed_in_numpy",),
    ),
    "wrong_epsilon": Fault(
        "models",
        'return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)',
        'return BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_norm")(x)',
        ("tests/models/test_hscnet.py::test_equals_the_network_computed_in_numpy",),
    ),
    "one_convolution_for_all_roles": Fault(
        "models",
        'name = f"shared_{role}" if shared else name',
        'name = f"shared_{role}" if shared and role != "spatial" else name',
        ("tests/models/test_shardnet.py::test_one_convolution_serves_all_thirteen_places",),
    ),
    "module_uses_its_first_expansion_twice": Fault(
        "models",
        "return (reduce_first, first, expand1), (reduce_second, second, expand2)",
        "return (reduce_first, first, expand1), (reduce_second, second, expand1)",
        ("tests/models/test_hscnet.py::test_equals_the_network_computed_in_numpy",),
    ),
    # analysis
    "shared_tensor_counted_twice": Fault(
        "analysis",
        "for weight in weights if id(weight) not in seen}",
        "for weight in weights}",
        ("tests/analysis/test_profile.py::test_a_variable_of_two_layers_is_stored_once",),
    ),
    "groups_cost_nothing_less": Fault(
        "analysis",
        "return _size(outputs) * math.prod(layer.kernel_size) * (_channels(layer, inputs) // layer.groups)",
        "return _size(outputs) * math.prod(layer.kernel_size) * _channels(layer, inputs)",
        ("tests/analysis/test_profile.py::test_multiply_adds_of_each_layer",),
    ),
    "second_call_is_called_the_first": Fault(
        "analysis",
        "index = self._uses[id(operation)]",
        "index = 0",
        ("tests/analysis/test_graph.py::test_a_layer_called_several_times_is_one_object_with_a_call_each",),
    ),
    "weakest_inputs_of_the_wrong_rows": Fault(
        "analysis",
        "magnitudes = np.abs(keras.ops.convert_to_numpy(layer.kernel)[0, 0]).T",
        "magnitudes = keras.ops.convert_to_numpy(layer.kernel)[0, 0].T",
        ("tests/analysis/test_blending.py::test_rows_of_a_pattern",),
    ),
    # export: the graph, its integers, the file
    "wrong_epsilon_in_the_fold": Fault(
        "export",
        'scale = gamma / np.sqrt(array(layer.moving_variance, "float64") + layer.epsilon)',
        'scale = gamma / np.sqrt(array(layer.moving_variance, "float64") + 1e-3)',
        ("tests/mobile/test_sharing_in_files.py::test_graphs_match_keras",),
    ),
    "bias_is_not_scaled": Fault(
        "export",
        "bias = reader.bias if producer.bias is None else reader.bias + reader.scale * producer.bias",
        "bias = reader.bias if producer.bias is None else reader.bias + producer.bias",
        ("tests/mobile/test_sharing_in_files.py::test_normalization_scales_the_bias_of_the_convolution",),
    ),
    "kernel_takes_the_inverse_permutation": Fault(
        "export",
        'rows[:, :, before.attributes["indices"]] = operation.kernel.array',
        'rows[:] = operation.kernel.array[:, :, before.attributes["indices"]]',
        ("tests/mobile/test_sharing_in_files.py::test_permutation_is_folded_into_the_kernel_that_reads_it",),
    ),
    "factors_of_another_group": Fault(
        "export",
        "factors = np.repeat(factors.reshape(groups, -1).T, array",
        "factors = np.repeat(factors.reshape(-1, groups), array",
        ("tests/mobile/test_equalization.py::test_scales_of_filters_in_a_file",),
    ),
    "concatenated_channels_share_factors": Fault(
        "export",
        "(np.arange(end - width, end), np.arange(width))",
        "(np.arange(width), np.arange(width))",
        ("tests/mobile/test_equalization.py::test_scales_of_filters_of_linked_values",),
    ),
    "copies_get_integers_of_their_own": Fault(
        "export",
        "if len(kernels) == 1} & rewritable_kernels(graph)",
        "} & rewritable_kernels(graph)",
        ("tests/mobile/test_equalization.py::test_no_file_becomes_larger",),
    ),
    "dilated_zeros_counted_as_dense": Fault(
        "export",
        "sizes = [(size - 1) * rate + 1 for size, rate",
        "sizes = [size for size, rate",
        ("tests/mobile/test_merging.py::test_zero_padding_is_folded_into_convolutions",),
    ),
    "merging_joins_scales": Fault(
        "export",
        "number not in given and (len(roots) == 1 or roots <= alone) and inputs",
        "number not in given and inputs",
        ("tests/mobile/test_merging.py::test_equal_operations_with_different_scales_are_not_merged",),
    ),
    "output_is_an_input": Fault(
        "export",
        "if idle and operation.output not in graph.outputs:",
        "if idle:",
        ("tests/mobile/test_merging.py::test_output_that_equals_an_input_remains_a_copy",),
    ),
    "zero_point_off_by_one": Fault(
        "export",
        "return Quantization(np.float32(scale), point)",
        "return Quantization(np.float32(scale), min(point + 1, 127))",
        ("tests/mobile/test_quantization.py",),
    ),
    "bias_in_the_scale_of_the_output": Fault(
        "export",
        "return self._quantized.values[operation.inputs[0].number].scale",
        "return self._quantized.values[operation.output.number].scale",
        ("tests/mobile/test_tflite.py::test_file_matches_keras",),
    ),
    "moved_values_have_scales_of_their_own": Fault(
        "export",
        "tied.merge(operation.output.number, value.number)",
        "tied.merge(value.number, value.number)",
        ("tests/mobile/test_sharing_in_files.py::test_file[hscnet-int8-size]",),
    ),
    "constant_written_at_every_use": Fault(
        "export",
        "if data not in self._buffer_numbers:",
        "if data:",
        ("tests/mobile/test_composed.py::test_two_calls_share_their_constants",),
    ),
    "kernel_does_not_take_the_rest": Fault(
        "export",
        "(operation.kernel.array * rest[:, None])",
        "(operation.kernel.array * 1)",
        (
            "tests/mobile/test_quantization.py::test_channel_scales_are_per_tensor_if_the_next_kernel_takes_the_remainder",
        ),
    ),
    "written_over_what_is_read_later": Fault(
        "export",
        "unused = value not in kept and lives[value][1] == number",
        "unused = value not in kept and lives[value][1] >= number",
        ("tests/mobile/test_arena.py::test_values_with_overlapping_lifetimes_do_not_overlap_in_memory",),
    ),
    "place_behind_the_last_neighbor_alone": Fault(
        "export",
        "start = max(start, end)",
        "start = end",
        ("tests/mobile/test_arena.py::test_values_with_overlapping_lifetimes_do_not_overlap_in_memory",),
    ),
    "browsers_are_answered_in_uint8": Fault(
        "export",
        '"browser": Target("int8", "uint8", "float32", "size")',
        '"browser": Target("int8", "uint8", "uint8", "size")',
        ("tests/mobile/test_targets.py::test_file[browser]",),
    ),
    "int8_at_the_ends_unless_asked": Fault(
        "export",
        'default = "uint8" if quantization == "int8" else "float32"',
        'default = "int8" if quantization == "int8" else "float32"',
        ("tests/mobile/test_ends.py::test_default_types",),
    ),
    "dark_images_cut_bright_pixels": Fault(
        "export",
        "if whole_pixels and",
        "if not whole_pixels and",
        ("tests/mobile/test_ends.py::test_uint8_input_takes_raw_pixels",),
    ),
    "one_scale_for_all_filters": Fault(
        "export",
        'integers(kernel_bits, "CHANNELWISE")',
        'integers(kernel_bits, "TENSORWISE")',
        ("tests/mobile/test_precisions.py::test_kernels_are_rounded_per_filter_and_stored_once",),
    ),
    "last_pattern_counts": Fault(
        "export",
        "next((name for pattern, name in quantization.items() if",
        "next((name for pattern, name in reversed(quantization.items()) if",
        ("tests/mobile/test_precisions.py::test_precision_per_layer",),
    ),
    "resolver_lacks_an_operator": Fault(
        "export",
        "operators = sorted(file.operator_counts(model))",
        "operators = sorted(file.operator_counts(model))[1:]",
        ("tests/mobile/test_c_array.py::test_source_contains_the_bytes_of_the_file",),
    ),
    "tf2onnx_is_not_asked_for": Fault(
        "export",
        'ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")',
        'ONNX_PACKAGES = ("onnx", "onnxruntime", "onnx")',
        ("tests/mobile/test_onnx.py::test_missing_package",),
    ),
    # compress
    "zeros_are_trained": Fault(
        "compress",
        "return kernel * ops.cast(kernel != 0, kernel.dtype)",
        "return kernel * 1",
        ("tests/ops/test_rounding.py",),
    ),
    "places_of_a_range_are_one": Fault(
        "compress",
        "place = self._taken[group]",
        "place = 0",
        ("tests/mobile/test_quantize_aware.py::test_concatenated_values_share_one_range",),
    ),
    "pruned_weights_come_back": Fault(
        "compress",
        "self.variable.assign(self.variable.value * mask * self._kept)",
        "self.variable.assign(self.variable.value * self._kept)",
        ("tests/mobile/test_tfmot.py::test_pruning_schedule",),
    ),
    "centroids_sum_their_gradients": Fault(
        "compress",
        "(tf.math.divide_no_nan(summed, sizes), self._centroids)]",
        "(summed, self._centroids)]",
        ("tests/mobile/test_tfmot.py::test_clustering_step",),
    ),
    # training
    "checkpoint_without_momentum": Fault(
        "training",
        'restore(trained, arrays, ["weights", "optimizer"])',
        'restore(trained, arrays, ["weights"])',
        ("tests/training/test_resume.py::test_run_interrupted_within_an_epoch_matches_undisturbed_run",),
    ),
    "resume_skips_a_batch": Fault(
        "training",
        "batches = training_batches(dataset, run.recipe, run.seed, first=first, **part)",
        "batches = training_batches(dataset, run.recipe, run.seed, first=first and first + 1, **part)",
        ("tests/training/test_resume.py::test_run_interrupted_within_an_epoch_matches_undisturbed_run",),
    ),
    "average_takes_the_place_of_the_weights": Fault(
        "training",
        "model.optimizer.finalize_variable_values = lambda variables: None",
        "pass",
        ("tests/training/test_recipe_parts.py::test_moving_average_is_delivered",),
    ),
    "mixing_repeats_itself": Fault(
        "training",
        'state = ops.stack([ops.cast(first, "uint32"), ops.cast(step, "uint32") * _DRAWS])',
        'state = ops.stack([ops.cast(first, "uint32"), ops.cast(0, "uint32") * _DRAWS])',
        ("tests/training/test_recipe_parts.py::test_changes_depend_only_on_seed_and_step",),
    ),
    "divergence_by_its_name": Fault(
        "training",
        "divergence = keras.losses.KLDivergence()",
        'divergence = "kl_divergence"',
        ("tests/training/test_recipe_parts.py::test_distillation_loss",),
    ),
    "rate_falls_a_step_late": Fault(
        "training",
        "boundaries = [round(fraction * total) - warmup - 1 for fraction in recipe.milestones] or [total]",
        "boundaries = [round(fraction * total) - warmup for fraction in recipe.milestones] or [total]",
        ("tests/training/test_recipes.py",),
    ),
    "weight_decay_twice_as_large": Fault(
        "training",
        "keras.regularizers.L2(rate / 2) if rate and",
        "keras.regularizers.L2(rate) if rate and",
        ("tests/training/test_recipes.py::test_weight_decay_counts_a_shared_tensor_once",),
    ),
    "accuracy_on_the_training_split": Fault(
        "training",
        "return Batches(dataset.test, len(dataset.class_names), batch_size, view=views)",
        "return Batches(dataset.train, len(dataset.class_names), batch_size, view=views)",
        ("tests/training/test_fit.py::test_saved_models_have_the_reported_accuracy",),
    ),
    "classes_in_reverse": Fault(
        "training",
        "return [pathlib.Path(folder, name) for name in names]",
        "return [pathlib.Path(folder, name) for name in reversed(names)]",
        ("tests/training/test_image_folders.py::test_class_folders_are_split",),
    ),
    "every_epoch_in_the_same_order": Fault(
        "training",
        "np.random.default_rng((seed, ORDER, epoch)).permutation(count)",
        "np.random.default_rng((seed, ORDER, 0)).permutation(count)",
        ("tests/training/test_batches.py::test_epochs_have_different_orders_without_repetition",),
    ),
    "crops_never_reach_the_far_border": Fault(
        "training",
        "generator.integers(0, 2 * augmentation.pad, count, endpoint=True)",
        "generator.integers(0, 2 * augmentation.pad, count)",
        ("tests/training/test_batches.py::test_augmentation_covers_every_crop",),
    ),
    # search
    "networks_are_tried_again": Fault(
        "search",
        "return super()._compute_values_hash(self.network(parameters))",
        "return super()._compute_values_hash(values)",
        ("tests/search/test_search.py::test_no_network_is_trained_twice",),
    ),
    "budget_off_by_one": Fault(
        "search",
        "(number is not None and number <= limit)",
        "(number is not None and number < limit)",
        ("tests/search/test_enumerate.py::test_networks_within_the_budget_are_listed",),
    ),
    "second_call_stores_again": Fault(
        "search",
        "return 0, cost[1]",
        "return cost",
        ("tests/search/test_spaces.py::test_counts_match_built_networks",),
    ),
    "finalists_meet_the_same_part_again": Fault(
        "search",
        "dataclasses.replace(search, seed=search.seed + part)",
        "dataclasses.replace(search, seed=search.seed)",
        ("tests/search/test_finals.py::test_finalists_are_validated_on_other_parts",),
    ),
}
