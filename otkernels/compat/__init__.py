"""The names, argument orders and numbers of other libraries, on the functions of otkernels."""
