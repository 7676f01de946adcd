"""Mistakes in the engines: what a pass computes, PyTorch, and the Python of the CUDA core."""

from mistakes.mistake import mistake

TORCH = (
    mistake(
        "the targets are those one position before the counted ones",
        "gpt2lab/engine/passes/planner.py",
        "np.ascontiguousarray(targets[:, counted])",
        "np.ascontiguousarray(targets[:, counted - 1])",
        "test_prefix_tree.py",
    ),
    mistake(
        "a node of a prefix tree does not see itself",
        "gpt2lab/engine/passes/prefix_tree.py",
        "np.arange(T) <= positions[:, None]",
        "np.arange(T) < positions[:, None] - 1",
        "test_prefix_tree.py",
    ),
    mistake(
        "a target that several rows share counts once",
        "gpt2lab/engine/passes/prefix_tree.py",
        "len(pairs)), pair_targets, counts)",
        "len(pairs)), pair_targets, np.ones_like(counts))",
        "test_prefix_tree.py",
    ),
    mistake(
        "gradients below the limit are clipped, those above are not",
        "gpt2lab/engine/torch/engine.py",
        "if clip and grad_norm > clip:",
        "if clip and grad_norm < clip:",
        "test_engines.py::test_one_update_is_adamw_written_out[torch]",
    ),
    mistake(
        "a restored optimizer is one step ahead",
        "gpt2lab/engine/torch/engine.py",
        "torch.tensor(float(step)",
        "torch.tensor(float(step + 1)",
        "test_engines.py::test_a_restored_engine_continues_with_the_same_bits",
    ),
    mistake(
        "each micro-batch counts as much as the whole batch",
        "gpt2lab/engine/torch/engine.py",
        "(loss_sum / n_counted).backward()",
        "(loss_sum / rows.n_counted).backward()",
        "test_engines.py::test_accumulation_gives_the_gradient_of_the_whole_batch",
    ),
    mistake(
        "padded columns of the logits are in the softmax",
        "gpt2lab/engine/torch/embedding.py",
        "logits[:, self.vocab_size :] = -torch.inf",
        "logits[:, self.vocab_size :] = 0.0",
        "test_torch_embedding.py",
    ),
    mistake(
        "counted pairs have the gradient's wrong sign",
        "gpt2lab/engine/torch/targets.py",
        "index_add_(0, places, -weights)",
        "index_add_(0, places, weights)",
        "test_torch_targets.py",
    ),
    mistake(
        "one row whose band reaches over an end keeps what lay in memory",
        "gpt2lab/engine/torch/banded.py",
        "clipped = cut.half_band // 4 + 1",
        "clipped = cut.half_band // 4",
        "test_torch_banded.py::test_what_a_band_has_beyond_the_ends_stays_zero_in_training",
        "test_torch_banded.py::test_a_layer_multiplies_as_the_masked_matrix_does",
    ),
    mistake(
        "GELU is the exact one",
        "gpt2lab/engine/torch/model.py",
        'approximate="tanh"',
        'approximate="none"',
        "test_huggingface.py::test_a_transformers_model_gives_equal_logits_here",
    ),
)

CUDA = (
    mistake(
        "the MLP is added to what attention was added to",
        "gpt2lab/engine/cuda/layer.py",
        'sum=a["residual3"][i], residual=a["residual2"][i]',
        'sum=a["residual3"][i], residual=x',
        "test_cuda_engine.py::test_loss_and_all_gradients_of_one_step_are_those_of_the_reference[heads of 20-dense]",
    ),
    mistake(
        "the second moment is corrected without its root",
        "gpt2lab/engine/cuda/ops/adamw.py",
        "(1 - optim.beta2**update) ** 0.5",
        "(1 - optim.beta2**update)",
        "test_engines.py::test_one_update_is_adamw_written_out[cuda on host]",
    ),
    mistake(
        "decay=all leaves out norms and biases in the CUDA core",
        "gpt2lab/engine/cuda/ops/tensor_table.py",
        "spec.decays or decay is Decay.all",
        "spec.decays",
        "test_tensor_table.py",
    ),
    mistake(
        "first and second moments change places in a restored CUDA core",
        "gpt2lab/engine/cuda/engine.py",
        '(("m", "first moments"), ("v", "second moments"))',
        '(("v", "first moments"), ("m", "second moments"))',
        "test_engines.py::test_a_restored_engine_continues_with_the_same_bits[cuda on host-3]",
    ),
    mistake(
        "a run that diverged is set back one step too few",
        "gpt2lab/engine/cuda/engine.py",
        "self.step = diverged_at - 1",
        "self.step = diverged_at",
        "test_cuda_engine.py::test_a_run_that_diverged_between_two_readings_goes_back_to_its_last_good_update",
    ),
    mistake(
        "a batch that comes again is not uploaded after an evaluation",
        "gpt2lab/engine/cuda/passes.py",
        "if not (known and self._resident):",
        "if not known:",
        "test_cuda_passes.py::test_a_batch_that_comes_again_is_uploaded_once_and_again_after_an_evaluation",
    ),
    mistake(
        "any two passes at one place share a recorded graph",
        "gpt2lab/engine/cuda/passes.py",
        "        if not self.is_tree:\n            return key",
        "        if self.place:\n            return self.place",
        "test_cuda_graph.py::test_trees_that_differ_from_step_to_step_take_few_graphs",
    ),
    mistake(
        "the gradient of queries is lost in a trimmed layer",
        "gpt2lab/engine/cuda/last_layer.py",
        "first_column=C, accumulate=True)",
        "first_column=C)",
        "test_cuda_passes.py::test_every_switch_leaves_loss_gradients_and_accuracy_as_they_are[some]",
    ),
    mistake(
        "no room is planned for the longest row of the model",
        "gpt2lab/engine/cuda/memory.py",
        "max(workload.micro_batch_size * workload.seq_len, config.max_seq_len)",
        "workload.micro_batch_size * workload.seq_len",
        "test_cuda_memory.py",
    ),
    mistake(
        "an algorithm chosen for aligned arrays is used for others",
        "gpt2lab/engine/cuda/gemm/cublas_lt.py",
        "(product, out.dtype.str, alignments)",
        "(product, out.dtype.str)",
        "test_cuda_blas.py::test_an_algorithm_is_chosen_once_for_each_shape_dtype_and_alignment",
    ),
    mistake(
        "a pinned buffer is filled again before its copy is done",
        "gpt2lab/engine/cuda/device/card.py",
        "event.synchronize()",
        "pass",
        "test_cuda_gpu.py::test_a_source_may_change_as_soon_as_its_upload_returns",
    ),
    mistake(
        "CuPy's cache does not see a changed header",
        "gpt2lab/engine/cuda/device/card.py",
        "repr(sorted(texts.items()))",
        "repr(sorted(texts))",
        "test_cuda_gpu.py::test_a_changed_header_changes_what_the_cache_of_cupy_knows_a_kernel_by",
    ),
    mistake(
        "a compiled kernel is found again after its source changed",
        "gpt2lab/engine/cuda/device/host_build.py",
        "repr([version, sorted(sources.items()), flags",
        "repr([version, sorted(sources), flags",
        "test_cuda_host.py::test_a_kernel_is_compiled_once_for_the_same_content",
    ),
    mistake(
        "writes behind an allocation are not looked for",
        "gpt2lab/engine/cuda/device/host.py",
        'buffer[end:], "behind the end")):',
        'buffer[:begin], "before the beginning")):',
        "test_cuda_host.py::test_guard_zones_see_a_write_beyond_an_allocation",
    ),
)

PLAN = (
    mistake(
        "a query of a tree does not see itself in the count of operations",
        "gpt2lab/engine/passes/work.py",
        "each.positions.astype(np.int64) + 1",
        "each.positions.astype(np.int64)",
        "test_flops.py::test_counts_are_those_of_going_through_rows_and_prefixes_one_by_one",
    ),
    mistake(
        "banded products are counted once and not for each of the three",
        "gpt2lab/engine/torch/plan.py",
        "name: len(PRODUCTS) * _multiply_adds(",
        "name: _multiply_adds(",
        "test_flops.py::test_banded_products_count_their_blocks_corners_included",
    ),
    mistake(
        "the workspace of cuBLAS is not planned",
        "gpt2lab/engine/cuda/plan.py",
        "0 if device is DeviceChoice.host else WORKSPACE_BYTES",
        "0",
        "test_plan.py",
        "test_flops.py",
    ),
)

MISTAKES = (*TORCH, *CUDA, *PLAN)
