// Products of many experts in one launch each, for compute capability 9.0 and bf16.
//
// Weights stream through shared memory by the copy engine, 128 outputs x 64 inputs at a time, next to 64 inputs of up
// to 256 rows; two warp groups multiply. Weights are the left operand, so that a tile has as many rows as there
// are, in steps of 16, and a few rows cost little more than reading the weights. Gate and up of one output meet in one
// thread: the activation needs no memory between, nor do few rows that an expert gets from all over the batch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::cuda {

class hopper_products {
 public:
  // nullptr: this device or driver cannot.
  static std::unique_ptr<hopper_products> open(int device);
  virtual ~hopper_products() = default;

  // @returns whether `form` is one that `multiply` knows
  [[nodiscard]] virtual bool knows(const expert_form& form) const = 0;
  // As gpu_runtime::multiply, all of it on `stream`. @pre knows(work.form)
  virtual cudaError_t multiply(const products_work& work, cudaStream_t stream) = 0;
  // Of work.scratch.
  [[nodiscard]] static std::size_t scratch_bytes(const expert_form& form, std::size_t assignments) {
    return assignments * (form.first_inputs + form.second_inputs) * 2;
  }
};

}  // namespace troupe::compute::cuda
