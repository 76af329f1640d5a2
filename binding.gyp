{
  "targets": [{
    "target_name": "chai_llm",
    "type": "none",
    "actions": [{
      "action_name": "cmake",
      "inputs": ["CMakeLists.txt"],
      "outputs": ["<(PRODUCT_DIR)/always-rerun.stamp"],
      "action": ["node", "scripts/build_native.cjs"],
      "message": "Building with CMake"
    }]
  }]
}
